"""Importance of invented tasks, and the overlap of two of them computed plainly."""

import numpy as np

from headcount.artifacts import schemas, storage

LAYERS, HEADS, DOCUMENTS = 3, 4, 12


ABOUT = {"model": "m", "component": "heads", "estimator": "gradient-token"}


def importance_files(directory):
    """Importance artifacts of three tasks at 0, 1, 5 shots, and their arrays by (task, shots)."""
    generator = np.random.default_rng(0)
    true = generator.normal(size=LAYERS * HEADS)
    paths, arrays = [], {}
    for task in ("copa", "boolq", "arc"):
        for shots in (5, 0, 1):  # not in order: they come from the provenance
            noise = generator.normal(size=(LAYERS * HEADS, DOCUMENTS))
            contributions = np.round(true[:, None] + noise, 1)  # rounded: some scores tie
            weights = generator.integers(3, 9, size=contributions.shape).astype(float)
            arrays[task, shots] = contributions, weights
            path = directory / f"file-{len(paths)}.parquet"
            columns = {
                "layer": np.repeat(np.arange(LAYERS), HEADS),
                "head": np.tile(np.arange(HEADS), LAYERS),
                "score": contributions.sum(1) / weights.sum(1),
                "standard_error": np.zeros(LAYERS * HEADS),
                "n": np.full(LAYERS * HEADS, DOCUMENTS),
                "contributions": list(contributions),
                "weights": list(weights),
            }
            made_by = {**ABOUT, "task": task, "shots": shots}
            storage.write(path, columns, schemas.SCHEMAS["importance"], made_by)
            paths.append(path)
    return paths, arrays


def plain_overlap(a: np.ndarray, b: np.ndarray) -> float:
    k = round(0.3 * len(a))
    top_a, top_b = (
        set(sorted(range(len(scores)), key=lambda i: (scores[i], i))[-k:]) for scores in (a, b)
    )
    return len(top_a & top_b) / k
