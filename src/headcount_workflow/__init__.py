"""What knows Snakemake: around the jobs of rules, and around a run.

In a job: `job`, what every script does; `job_model`, `job_task`, `job_evaluation`, what some do;
`job_server`, the process in which jobs find everything imported; `job_log`, what their logs tell.
Around a run: `display`, what the terminal shows, by way of Snakemake's logger plugin
`snakemake_logger_plugin_headcount`; `monitor`, which follows the jobs; `run_state`, how far they
are; `screen`, how that looks; `slurm_failures`, what a cluster does with them.
"""
