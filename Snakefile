import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")  # what pyproject.toml asks for, which also says up to where

# Another workflow may use this one as a module: it keeps its own settings, display and handlers.
MODULE = not workflow.modifier.is_main_snakefile()
MAIN = workflow.is_main_process and not MODULE
# Snakemake's own temporary directory, which a kill would leave behind: it stays empty, or is kept.
if MAIN:
    with suppress(OSError):
        workflow.snakemake_tmp_dir.rmdir()


# The top of the repository, also where this file is a module of another workflow.
HOME = Path(str(workflow.current_basedir))
# The library is found without being installed, in this process and in the jobs.
sys.path.insert(0, f"{HOME}/src")
if not MODULE:
    # Jobs read and write UTF-8 whatever the locale, lm-eval's and datasets' own files included.
    library = f"{HOME}/src:{os.environ.get('PYTHONPATH', '')}"
    os.environ.update(PYTHONPATH=library, PYTHONUTF8="1")

from headcount import yaml_files

# `--configfile` names another study, which replaces config.yaml: merged, the two would mix. From
# another directory without a study of its own it is the embedded one. A module has its
# configuration from the workflow that uses it.
if MODULE:
    config = {**config}  # that of the other workflow stays as it is
elif not workflow.overwrite_configfiles:
    DEFAULT = "config.yaml" if os.path.exists("config.yaml") else f"{HOME}/config.yaml"
    try:
        yaml_files.load(DEFAULT)  # says where a slip is
    except yaml_files.YamlError as error:
        raise WorkflowError(str(error))

    configfile: DEFAULT


# Of the resource `turn` there is one to each submission to a cluster: its jobs take turns.
resource_scopes:
    turn="local",


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/importance.smk"
include: "workflow/rules/rankings.smk"
include: "workflow/rules/pruning.smk"
include: "workflow/rules/correlation.smk"
include: "workflow/rules/induction.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/parity.smk"
include: "workflow/rules/staleness.smk"


# On a node of a cluster, the jobs of a submission share the seconds that importing torch and lm-eval
# takes; each of them is run by a Snakemake below this one.
if workflow.remote_exec and job_server.ADDRESS not in os.environ:
    job_server.start()


if MAIN:
    DISPLAY = display.attach(workflow, show_summary, explained)


onstart:
    if refused := REFUSED or protected(folders(workflow.dag.needrun_jobs())):
        raise WorkflowError(refused)
    for warning in CHECKED.notes:
        logger.warning(f"Note: {warning}.")
    # Snakemake's handler waits for a lock that the thread which it interrupts may hold, then for ever.
    # Jobs of this machine end with this process, and lose nothing; those of a cluster are cancelled,
    # as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not workflow.local_exec:
        from headcount_workflow import slurm_failures

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        DISPLAY.explain = slurm_failures.Explanation(
            workflow.dag, GROWTH, workflow.scheduler
        )


onsuccess:
    DISPLAY.end(succeeded=True)


onerror:
    DISPLAY.end(succeeded=False)


rule all:
    default_target: not MODULE
    input:
        collect(
            "<artifacts>/{model}/figures/{name}.{format}",
            model=config["models"],
            name=FIGURES,
            format=FORMATS,
        ),
        collect(
            "<artifacts>/across/figures/{name}.{format}", name=ACROSS, format=FORMATS
        ),
        collect("<artifacts>/{model}/report/index.html", model=config["models"]),
