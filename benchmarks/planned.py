"""`headcount plan` beside the clock: what it predicts of stages, and what they take.

    python benchmarks/planned.py

SmolLM2-135M, ARC-Easy, 5 shots. The plan divides FLOPs by a machine's sustained rate; here that is
the share of the best matrix product that `make bench` finds (`clock.sustained_rate`).
"""

import os
import tempfile
from pathlib import Path

import torch
from clock import seconds, sustained_rate
from report import write_table
from works import HEAD_LEVELS, cuts, orders, prepared, smollm2

from headcount.engine import Masks, log_likelihoods
from headcount.scores import importance
from headcount.scores.documents import request_pairs, split_rows
from headcount.study import configuration, plan

CONFIG = configuration.completed(
    {
        "models": {},
        "tasks": [],
        "random_rankings": 0,
        "levels": {
            "heads": HEAD_LEVELS,
            "ffns": HEAD_LEVELS,
            "combined": {"heads": [0], "ffns": [0]},
        },
    }
)


def main() -> None:
    torch.set_num_threads(os.cpu_count())
    with tempfile.TemporaryDirectory() as directory:
        model = smollm2(Path(directory))
        size = plan.Size.of(model.hf.config, "float32")
    table, _ = prepared("arc_easy", 5, 4)
    planned = {stage.name: stage for stage in plan.stages(size, table, "arc_easy", 5, CONFIG)}
    calibration, evaluation = (split_rows(table, s) for s in ("calibration", "evaluation"))
    gold = model.encode(request_pairs([row for row in calibration if row["gold"]]))
    calibration, evaluation = (
        model.encode(request_pairs(rows)) for rows in (calibration, evaluation)
    )
    heads, ffns = orders(model)
    removals = {  # three rankings: one, its reverse, another one
        "heads": [(heads, []), (heads[::-1], []), (sorted(heads), [])],
        "FFNs": [([], ffns), ([], ffns[::-1]), ([], sorted(ffns))],
    }
    each_ffn = importance.each_removed(model, "ffns")
    runs = {
        "importance of heads": lambda: importance.gradient(model, gold, "heads", "token"),
        "importance of FFNs": lambda: log_likelihoods(model, calibration, each_ffn),
    }
    for name, rankings in removals.items():
        levels = [(level, level) for level in HEAD_LEVELS]
        removed = [cut for ranking in rankings for cut in cuts(*ranking, levels)]
        masks = Masks.removing(model, removed)
        runs[f"pruning of {name}"] = lambda masks=masks: log_likelihoods(model, evaluation, masks)
    rows = []
    for name, run in runs.items():
        run()
        took, rate = min(seconds(run) for _ in range(3)), sustained_rate()
        predicted = planned[name].flops / rate
        tera = f"{planned[name].flops / 1e12:.2f}"
        rows.append([name, tera, f"{predicted:.1f}", f"{took:.1f}", f"{predicted / took:.2f}"])
        print(*rows[-1], sep=" | ", flush=True)
    columns = ["stage", "TFLOP, planned", "seconds, planned", "seconds, measured", "ratio"]
    write_table("planned", columns, rows)


if __name__ == "__main__":
    main()
