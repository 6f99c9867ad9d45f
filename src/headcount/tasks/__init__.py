"""lm-evaluation-harness tasks: what they mean, what a study can do with them, their prompts.

- `code`: what the functions of a task read
- `datasets`: where a task's documents are, and what decides them
- `doc_codec`: documents as text that keeps their types
- `files`: the YAML files that define tasks
- `loading`: a task found by name, and loaded as lm-eval loads it
- `metrics`: the metrics of a task, in lm-eval's own numbers
- `prompts`: requests rendered by lm-eval, and documents to calibrate on
- `spec`: what a study can do with a task, by its files
- `squad`: the metric of SQuAD without a download
- `streams`: documents read no further than a check needs
"""

__all__ = [
    "code",
    "datasets",
    "doc_codec",
    "files",
    "loading",
    "metrics",
    "prompts",
    "spec",
    "squad",
    "streams",
]
