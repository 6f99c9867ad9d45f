"""Writes the documents of the lm-eval tasks: tasks/data/mini_{task}/{train,validation}.jsonl.

    python workflow/resources/opt-mini/make_tasks.py

A question belongs to one split only, whatever its choices: its examples, which come from the
training split, never give its answer away.
"""

import argparse
import json
import random
import zlib
from pathlib import Path

from language import TASKS, Item

HERE = Path(__file__).parent
DOCUMENTS = {"train": 400, "validation": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "tasks" / "data")
    arguments = parser.parse_args()
    for task in TASKS:
        for split, documents in make_documents(task, arguments.seed).items():
            path = arguments.output / f"mini_{task}" / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def make_documents(task: str, seed: int) -> dict[str, list[dict]]:
    rng = random.Random(f"{task} {seed}")
    episode = TASKS[task](rng, True)
    documents: dict[str, list[dict]] = {split: [] for split in DOCUMENTS}
    seen = set()
    while any(len(documents[split]) < size for split, size in DOCUMENTS.items()):
        document = make_document(episode.draw(), rng)
        split = split_of(document["query"])
        key = (document["query"], tuple(document["choices"]))
        if key not in seen and len(documents[split]) < DOCUMENTS[split]:
            seen.add(key)
            documents[split].append({"id": f"{split}-{len(documents[split])}", **document})
    return documents


def make_document(item: Item, rng: random.Random) -> dict:
    choices = [" ".join(choice) for choice in item.choices()]
    rng.shuffle(choices)
    gold = choices.index(" ".join(item.answer))
    return {"query": " ".join(item.query), "choices": choices, "gold": gold}


def split_of(query: str) -> str:
    return "validation" if zlib.crc32(query.encode()) % 3 == 0 else "train"


if __name__ == "__main__":
    main()
