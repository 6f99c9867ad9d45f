"""Files and their identity: schemas, Parquet, provenance, and what makes an artifact stale.

- `gpus`: the GPUs that a job may use
- `hashes`: SHA-256 of files, each byte read once
- `lineage`: what artifacts were made of, and whether a study would make them so again
- `locks`: one run at a time writes a directory
- `parts`: the files that a growing table lies in
- `present`: which artifacts are those of the study that ran last
- `schemas`: the columns of every Parquet file
- `source_code`: what code means, and the packages that it uses
- `syntax`: what a source file defines, imports and mentions
- `storage`: atomic writes, reads, provenance
- `temporaries`: files that disappear with the job that wrote them
"""

__all__ = [
    "gpus",
    "hashes",
    "lineage",
    "locks",
    "parts",
    "present",
    "schemas",
    "source_code",
    "storage",
    "syntax",
    "temporaries",
]
