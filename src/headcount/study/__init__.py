"""Configure, check, plan, begin and read a study.

- `cache`: stored evaluations, conversions and earlier versions
- `checks`: all problems of a study, before it runs
- `configuration`: a study's file, checked against the schema
- `machines`: machines that a study could run on
- `model_checks`: problems of a checkpoint, by its files
- `new`: a study written for this machine
- `plan`: the cost of a study
- `resources`: memory and time of a job
- `results`: the artifacts of one model as frames and figures
"""

__all__ = [
    "cache",
    "checks",
    "configuration",
    "machines",
    "model_checks",
    "new",
    "plan",
    "resources",
    "results",
]
