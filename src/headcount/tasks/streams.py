"""What is in a task's files, read as lm-eval reads it and no further than a check needs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headcount.tasks.datasets import files, from_mirror


class Split:
    """The documents of a split as lm-eval gets them, each read when it is asked for."""

    def __init__(self, stream: Any):
        self.stream = stream  # a `datasets.IterableDataset`
        self.columns: list[str] = list(stream.features or ())

    def first(self, number: int) -> list[dict]:
        """At most `number` documents; none where they cannot be read this way."""
        with _reading():
            try:
                return list(self.stream.take(number))
            except Exception:  # of the library, and of all that it reads with
                return []

    def count(self, most: int) -> int | None:
        """How many there are, of many `most` or more; None where they cannot be read this way."""
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
    """Split -> its documents, of a dataset that lies in files; `datasets` is the mirror.

    The `datasets` library reads them by the task's own `dataset_kwargs`, as for lm-eval, but as a
    stream: none where it cannot, which says nothing of lm-eval. Raises `TaskError` as `files` does.
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
    """Have the `datasets` library read in silence, without torch and without a network."""
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
