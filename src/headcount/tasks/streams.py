"""The documents in a task's files, read as lm-eval reads them, as far as a check needs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headcount.tasks.datasets import files, from_mirror


class Split:
    """The documents of a split as lm-eval gets them, read on demand."""

    def __init__(self, stream: Any):
        self.stream = stream  # a `datasets.IterableDataset`
        self.columns: list[str] = list(stream.features or ())

    def first(self, number: int) -> list[dict]:
        """Return at most `number` documents; none if they cannot be streamed."""
        with _reading():
            try:
                return list(self.stream.take(number))
            except Exception:  # from the library, and from all that it reads with
                return []

    def count(self, most: int) -> int | None:
        """Return how many there are, counted to `most`; None if they cannot be streamed."""
        total = 0
        with _reading():
            try:
                for table in self.stream.with_format("arrow").iter(batch_size=1000):
                    total += table.num_rows
                    if total >= most:
                        break
            except Exception:  # as above
                return None
        return total


def open_splits(config: dict, datasets: str | Path | None = None) -> dict[str, Split]:
    """Return the documents of a dataset in files, by split; `datasets` is the mirror.

    The `datasets` library reads them by the task's own `dataset_kwargs`, as for lm-eval, but as a
    stream. A dataset that cannot be streamed gives no splits; lm-eval may still read it. Raises
    `TaskError` as `headcount.tasks.datasets.files` does.
    """
    if files(config, datasets) is None:
        return {}
    config = from_mirror(config, datasets)
    of_whole_files = ("trust_remote_code", "num_proc", "keep_in_memory")
    kwargs = config.get("dataset_kwargs") or {}
    kwargs = {key: value for key, value in kwargs.items() if key not in of_whole_files}
    with _reading():
        from datasets import load_dataset

        path, name = config["dataset_path"], config.get("dataset_name")
        try:
            loaded = load_dataset(path, name, streaming=True, **kwargs)
            return {split: Split(stream) for split, stream in loaded.items()}
        except Exception:  # as above
            return {}


@contextmanager
def _reading() -> Iterator[None]:
    """Make the `datasets` library read in silence, without torch and without a network."""
    from datasets import config

    logger, changed = (
        logging.getLogger("datasets"),
        ("TORCH_AVAILABLE", "HF_UPDATE_DOWNLOAD_COUNTS"),
    )
    level, kept = logger.level, {name: getattr(config, name) for name in changed}
    logger.setLevel(logging.CRITICAL)
    for name in changed:
        setattr(config, name, False)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in kept.items():
            setattr(config, name, value)
