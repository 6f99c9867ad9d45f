"""lm-eval itself, as a reference."""

from unittest.mock import patch

import lm_eval
from lm_eval.tasks import TaskManager


def evaluate(model, tasks, directory, **arguments):
    """lm-eval's own results for tasks, groups or tags that are defined below `directory`.

    Without its report of the machine, which takes a second, and without standard errors.
    """
    manager = TaskManager(include_path=str(directory), include_defaults=False)
    with patch("lm_eval.evaluator.add_env_info"):
        return lm_eval.simple_evaluate(
            model, tasks=tasks, task_manager=manager, bootstrap_iters=0, **arguments
        )
