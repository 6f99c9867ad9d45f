"""What bfloat16 changes: metrics, log-likelihoods and time beside float32. `make bench`.

python benchmarks/dtypes.py
"""

import copy
import tempfile
import time
from pathlib import Path

import torch
from report import write_table
from works import MEMORY, prepared, smollm2

from headcount.engine import Masks
from headcount.models.language_model import LanguageModel
from headcount.scores.documents import Evaluation

DOCUMENTS = 40


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        exact = smollm2(Path(directory))
    rounded = LanguageModel(copy.deepcopy(exact.hf).bfloat16(), exact.tokenizer, MEMORY)
    rows = []
    for task in ("arc_easy", "sglue_rte"):
        table, yaml = prepared(task, 5, DOCUMENTS)
        evaluation = Evaluation(table, "evaluation", yaml)
        reference = None
        for model in (exact, rounded):
            whole = Masks.removing(model, [([], [])])
            start = time.perf_counter()
            scores = evaluation.run(model, whole)
            took = time.perf_counter() - start
            found = torch.tensor([score for row in scores.log_likelihoods[0] for score in row])
            reference = found if reference is None else reference
            difference = (found - reference).abs()
            rows.append(
                [
                    f"{task}, {str(model.hf.dtype).removeprefix('torch.')}",
                    f"{scores.metric.mean():.3f}",
                    f"{difference.mean():.3f}",
                    f"{difference.max():.3f}",
                    f"{took:.1f}",
                ]
            )
            print(*rows[-1], sep=" | ", flush=True)
    columns = ["task, dtype", "metric", "mean difference, nats", "largest", "seconds"]
    write_table("dtypes", columns, rows, f"SmolLM2-135M, 5 shots, {DOCUMENTS} documents.")


if __name__ == "__main__":
    main()
