"""Configure, check, plan, begin and read a study.

- `cache`: what is kept of earlier computations
- `checks`: all problems of a study, before it runs
- `configuration`: a study's file against the schema
- `machines`: what a study could run on
- `model_checks`: problems of a checkpoint, told from its files
- `new`: a study written for this machine
- `plan`: what a study costs
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
