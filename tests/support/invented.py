"""Invented documents in the schemas of the hub's datasets: a mirror for the config's `datasets`.

No document is from a dataset: their words are drawn from the lists below. A dataset has what
lm-eval's task files read of it, under the hub's names and types; a label that is a class on the hub
is its number here, as it is in the hub's own files.
"""

import datetime
import decimal
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUBJECTS = ["baker", "pilot", "farmer", "painter", "sailor", "teacher", "doctor", "singer"]
OBJECTS = ["lantern", "basket", "ladder", "kettle", "blanket", "mirror", "hammer", "violin"]
VERBS = ["carries", "mends", "paints", "finds", "hides", "cleans", "borrows", "sells"]
PLACES = ["harbour", "garden", "kitchen", "market", "library", "valley", "station", "cellar"]
NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo"]
LETTERS = "ABCDE"
SIZE = 8  # documents of a split

Document = Callable[[random.Random, int], dict]  # the i-th of a split


def clause(draw: random.Random) -> str:
    subject, verb = draw.choice(SUBJECTS), draw.choice(VERBS)
    return f"the {subject} {verb} a {draw.choice(OBJECTS)} in the {draw.choice(PLACES)}"


def sentence(draw: random.Random) -> str:
    return f"{clause(draw).capitalize()}."


def things(draw: random.Random, count: int) -> list[str]:
    """Different answers, of one word and of two, so that choices share tokens in some documents."""
    return [
        draw.choice(["", "old ", "new "]) + thing for thing in draw.sample(OBJECTS + PLACES, count)
    ]


def lettered(draw: random.Random, count: int) -> tuple[dict, str]:
    """Choices as ARC and OpenBookQA have them, and the letter of the right one."""
    letters = list(LETTERS[:count])
    return {"text": things(draw, count), "label": letters}, draw.choice(letters)


# --- the datasets of the paper's tasks ---


def hellaswag(draw, i):
    return {
        "ind": i,
        "activity_label": "Mending",
        "ctx_a": sentence(draw),
        "ctx_b": "then",
        "ctx": "",
        "endings": [f"[step] {clause(draw)}." for _ in range(4)],
        "label": str(draw.randrange(4)),
    }


def piqa(draw, i):
    first, second = sentence(draw), sentence(draw)
    return {"goal": clause(draw), "sol1": first, "sol2": second, "label": draw.randrange(2)}


def arc(draw, i):
    choices, answer = lettered(draw, 3 + i % 2)  # three choices or four, as in ARC
    return {"id": f"q{i}", "question": sentence(draw), "choices": choices, "answerKey": answer}


def openbookqa(draw, i):
    choices, answer = lettered(draw, 4)
    return {"id": f"q{i}", "question_stem": clause(draw), "choices": choices, "answerKey": answer}


def winogrande(draw, i):
    first, second = draw.sample(NAMES, 2)
    return {
        "sentence": f"{first} met {second} in the {draw.choice(PLACES)} because _ was late.",
        "option1": first,
        "option2": second,
        "answer": draw.choice("12"),
    }


def boolq(draw, i):
    passage = f"{sentence(draw)} {sentence(draw)}"
    return {"question": clause(draw), "passage": passage, "idx": i, "label": draw.randrange(2)}


def cb(draw, i):
    label = draw.randrange(3)
    return {"premise": sentence(draw), "hypothesis": clause(draw), "idx": i, "label": label}


def copa(draw, i):
    return {
        "premise": sentence(draw),
        "choice1": sentence(draw),
        "choice2": sentence(draw),
        "question": draw.choice(["cause", "effect"]),
        "idx": i,
        "label": draw.randrange(2),
    }


def wic(draw, i):
    word = draw.choice(OBJECTS)
    sentences = [f"The {draw.choice(SUBJECTS)} saw the {word}." for _ in range(2)]
    starts = [text.index(word) for text in sentences]
    return {
        "word": word,
        "sentence1": sentences[0],
        "sentence2": sentences[1],
        "start1": starts[0],
        "start2": starts[1],
        "end1": starts[0] + len(word),
        "end2": starts[1] + len(word),
        "idx": i,
        "label": draw.randrange(2),
    }


def wsc(draw, i):
    first, second = draw.sample(NAMES, 2)
    text = f"{first} thanked {second} because she found the {draw.choice(OBJECTS)} ."
    return {
        "text": text,
        "span1_index": 0,
        "span2_index": 4,  # a word, not a character
        "span1_text": first,
        "span2_text": "she",
        "idx": i,
        "label": draw.randrange(2),
    }


def multirc(draw, i):
    return {
        "paragraph": f"{sentence(draw)} {sentence(draw)}",
        "question": f"What does the {draw.choice(SUBJECTS)} do?",
        "answer": clause(draw),
        "idx": {"paragraph": i // 2, "question": i, "answer": 0},
        "label": draw.randrange(2),
    }


def record(draw, i):
    entities = draw.sample(NAMES, 3 + i % 2)
    return {
        "passage": f"{entities[0]} met {entities[1]}.\n@highlight\n{sentence(draw)}",
        "query": f"@placeholder liked the {draw.choice(PLACES)}",
        "entities": entities,
        "answers": draw.sample(entities, 1 + i % 2),
        "idx": {"passage": i, "query": i},
    }


def pair_of_sentences(draw, i):
    """As in RTE and MRPC."""
    first, second = sentence(draw), sentence(draw)
    return {"sentence1": first, "sentence2": second, "label": draw.randrange(2), "idx": i}


def math_qa(draw, i):
    values = draw.sample(range(2, 60), 5)
    return {
        "Problem": f"the {draw.choice(SUBJECTS)} has {values[0]} of {values[1]} . how many ?",
        "Rationale": "",
        "options": " , ".join(f"{x} ) {v}" for x, v in zip("abcde", values, strict=True)),
        "correct": draw.choice("abcde"),
        "annotated_formula": "",
        "linear_formula": "",
        "category": "general",
    }


def lambada(draw, i):
    return {"text": f"{sentence(draw)} {clause(draw)}"}


# --- datasets of other kinds of task ---


def quiz(draw, i):
    """What the tests' own tasks read: one right answer, and a list of them."""
    return {
        "id": i,
        "question": sentence(draw),
        "choices": things(draw, 3),
        "answer": draw.randrange(3),
        "answers": sorted(draw.sample(range(3), 1 + i % 2)),
    }


def quiz_with_hidden_labels(draw, i):
    return {**quiz(draw, i), "answer": -1}


def quiz_with_wrong_labels(draw, i):
    return quiz(draw, i) | ({"answer": 7} if i in (2, 5) else {})


def quiz_with_types(draw, i):
    """Types that JSON lacks."""
    day = datetime.date(1990 + draw.randrange(30), 1, 1)
    price = decimal.Decimal(draw.randrange(900)) / 100
    at = datetime.time(draw.randrange(24), 30)
    return {**quiz(draw, i), "day": day, "price": round(price, 2), "at": at, "raw": b"\x00\xff"}


def quiz_with_copies(draw, i):
    """The first half of each split are the same documents."""
    return quiz(random.Random(i) if i < SIZE // 2 else draw, i)


def cola(draw, i):
    return {"sentence": sentence(draw), "label": draw.randrange(2), "idx": i}


def web_questions(draw, i):
    answers = things(draw, 2 + i % 2)
    return {"url": "", "question": f"what is in the {draw.choice(PLACES)}?", "answers": answers}


def truthful_qa(draw, i):
    choices = [sentence(draw) for _ in range(4)]
    right = 1 + i % 3
    return {
        "question": f"What is in the {draw.choice(PLACES)}?",
        "mc1_targets": {"choices": choices, "labels": [1, 0, 0, 0]},
        "mc2_targets": {"choices": choices, "labels": [1] * right + [0] * (4 - right)},
    }


def gpqa(draw, i):
    wrong, answers = "Incorrect Answer", things(draw, 4)
    return {
        "Question": sentence(draw),
        "Correct Answer": answers[0],
        **{f"{wrong} {n}": answers[n] for n in (1, 2, 3)},
    }


def blimp(draw, i):
    good = clause(draw)
    return {"sentence_good": good, "sentence_bad": " ".join(reversed(good.split()))}


def musr(draw, i):
    choices = draw.sample(NAMES, 2)
    answer = draw.randrange(2)
    return {
        "narrative": sentence(draw),
        "question": "Who did it?",
        "choices": repr(choices),
        "answer_index": answer,
        "answer_choice": choices[answer],
    }


def crows_pairs(draw, i):
    return {"sent_more": sentence(draw), "sent_less": sentence(draw), "bias_type": "age"}


def agieval(draw, i):
    gold = sorted(draw.sample(range(4), 1 + i % 2))
    return {"query": sentence(draw), "choices": things(draw, 4), "gold": gold}


TRAINED = ("train", "validation")
TESTED = ("train", "validation", "test")
# (dataset_path, dataset_name, splits, document)
STUDY: list[tuple[str, str | None, tuple[str, ...], Document]] = [
    ("Rowan/hellaswag", None, TRAINED, hellaswag),
    ("baber/piqa", None, TRAINED, piqa),
    ("allenai/ai2_arc", "ARC-Easy", TESTED, arc),
    ("allenai/ai2_arc", "ARC-Challenge", TESTED, arc),
    ("allenai/openbookqa", "main", TESTED, openbookqa),
    ("allenai/winogrande", "winogrande_xl", TRAINED, winogrande),
    ("aps/super_glue", "boolq", TRAINED, boolq),
    ("aps/super_glue", "cb", TRAINED, cb),
    ("aps/super_glue", "copa", TRAINED, copa),
    ("aps/super_glue", "wic", TRAINED, wic),
    ("aps/super_glue", "wsc.fixed", TRAINED, wsc),
    ("aps/super_glue", "multirc", TRAINED, multirc),
    ("nyu-mll/glue", "rte", TRAINED, pair_of_sentences),
    ("aps/super_glue", "record", TRAINED, record),
    ("regisss/math_qa", None, TESTED, math_qa),
    ("EleutherAI/lambada_openai", "default", ("test",), lambada),
]

KINDS: list[tuple[str, str | None, tuple[str, ...], Document]] = [
    ("invented/quiz", None, TESTED, quiz),
    ("invented/quiz", "hidden", TRAINED, quiz_with_hidden_labels),
    ("invented/quiz", "some", TRAINED, quiz_with_wrong_labels),
    ("invented/quiz", "typed", TRAINED, quiz_with_types),
    ("invented/quiz", "copied", TRAINED, quiz_with_copies),
    ("nyu-mll/glue", "cola", TRAINED, cola),
    ("nyu-mll/glue", "mrpc", TRAINED, pair_of_sentences),
    ("stanfordnlp/web_questions", None, ("train", "test"), web_questions),
    ("truthfulqa/truthful_qa", "multiple_choice", ("validation",), truthful_qa),
    ("Idavidrein/gpqa", "gpqa_main", ("train",), gpqa),
    ("nyu-mll/blimp", "adjunct_island", ("train",), blimp),
    ("TAUR-Lab/MuSR", None, ("murder_mysteries",), musr),
    ("jannalu/crows_pairs_multilingual", "english", ("test",), crows_pairs),
    ("hails/agieval-aqua-rat", None, ("test",), agieval),
    ("Muennighoff/xwinograd", "en", ("test",), winogrande),
]


def save_mirror(directory: Path, datasets=STUDY, size: int = SIZE) -> Path:
    """`size` documents a split, in the layout of the config's `datasets`."""
    for path, name, splits, document in datasets:
        home = directory / path.replace("/", "__") / (name or "default")
        home.mkdir(parents=True, exist_ok=True)
        for split in splits:
            draw = random.Random(f"{path} {name} {split}")
            rows = [document(draw, i) for i in range(size)]
            pq.write_table(pa.Table.from_pylist(rows), home / f"{split}.parquet")
    return directory
