"""Exact match and F1 of a short answer after normalisation (SQuAD's evaluation script, v1.1).

lm-eval 0.4.13's `record` imports these two from transformers, which no longer has them.
"""

import re
import string
import sys
from collections import Counter
from types import ModuleType


def normalise(text: str) -> str:
    """Return the text in lower case, without punctuation, articles and repeated white space."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def compute_exact(gold: str, prediction: str) -> int:
    """Return 1 if the two are the same after normalisation, else 0."""
    return int(normalise(gold) == normalise(prediction))


def compute_f1(gold: str, prediction: str) -> float:
    """Return the harmonic mean of precision and recall over the words of the two answers."""
    gold_words, words = normalise(gold).split(), normalise(prediction).split()
    if not gold_words or not words:
        return float(gold_words == words)
    common = sum((Counter(gold_words) & Counter(words)).values())
    return 2 * common / (len(gold_words) + len(words))


def supply() -> None:
    """Give lm-eval's `record` the two functions that it imports and transformers 5 removed."""
    name = "transformers.data.metrics.squad_metrics"
    if name not in sys.modules:
        module = ModuleType(name)
        vars(module).update(compute_exact=compute_exact, compute_f1=compute_f1)
        package = ModuleType("transformers.data.metrics")
        vars(package).update(squad_metrics=module)
        sys.modules |= {package.__name__: package, name: module}
