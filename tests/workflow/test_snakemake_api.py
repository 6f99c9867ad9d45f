"""What headcount's workflow takes of Snakemake beyond its documented interfaces, by name.

Snakemake promises to keep what its documentation describes: rules, profiles, hooks, plugins. The
rest, named here, is looked for in the version that is installed; nothing of it is private by an
underscore.
"""

import inspect
import re

import pytest
from snakemake.api import DAGSettings
from snakemake.dag import DAG
from snakemake.logging import LoggerManager
from snakemake.modules import WorkflowModifier
from snakemake.rules import Rule
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.workflow import Workflow
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from study import REPOSITORY

# What an object is called where it is used -> its class, and what is taken of it.
TAKEN = {
    "workflow": (
        Workflow,
        *("configfiles", "current_basedir", "dag", "dag_settings", "default_target", "dryrun"),
        *("execution_settings", "global_resources", "is_main_process", "local_exec"),
        *("logger_manager", "modifier", "overwrite_configfiles", "remote_exec", "rules"),
        *("scheduler", "snakemake_tmp_dir", "touch"),
    ),
    "modifier": (WorkflowModifier, "is_main_snakefile"),
    "logger_manager": (LoggerManager, "get_log_handlers"),
    "dag_settings": (DAGSettings, "targets"),
    "settings": (DAGSettings, "forceall", "forcerun", "forcetargets", "targets"),
    "dag": (DAG, "bfs", "depending", "finished", "jobid", "jobs", "needrun_jobs"),
    "step": (
        Rule,
        *("input", "is_producer", "name", "output", "params", "script", "set_input", "snakefile"),
        *("wildcard_constraints", "wildcard_names"),
    ),
    "scheduler": (JobScheduler, "get_executor"),
    "executor": (RemoteExecutor, "report_job_error", "report_job_submission"),
}
CODE = [
    REPOSITORY / "Snakefile",
    *(REPOSITORY / "workflow" / "rules").glob("*.smk"),
    *(REPOSITORY / "src" / "headcount_workflow").glob("*.py"),
]


@pytest.mark.parametrize("name", TAKEN)
def test_this_version_has_what_is_taken(name):
    """As a method, a property, a field, or something that its methods set."""
    cls, *attributes = TAKEN[name]
    bases = [base for base in cls.__mro__ if base is not object]
    code = "".join(inspect.getsource(base) for base in bases)
    missing = [
        attribute
        for attribute in attributes
        if not hasattr(cls, attribute)
        and not re.search(rf"^ +(self\.)?{attribute}\b.*[:=]", code, re.MULTILINE)
    ]
    assert missing == []


def test_nothing_else_is_taken():
    names = "|".join(name for name in TAKEN if name != "settings")
    found = {
        (owner, attribute)
        for path in CODE
        for owner, attribute in re.findall(rf"\b({names})\.(\w+)", path.read_text())
        if not re.search(rf"(import|from) .*\b{owner}\b", path.read_text())
    }
    known = {(owner, name) for owner, (_, *attributes) in TAKEN.items() for name in attributes}
    assert found - known == set()
    assert not [attribute for _, attribute in known if attribute.startswith("_")]
