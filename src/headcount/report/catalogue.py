"""Which figures a table is drawn as."""

WITH_TASKS = ("head_importance", "head_pruning", "ffn_pruning", "transfer")


def pages(table: str) -> list[str]:
    """The figures that a table is drawn as: one, and a page of its tasks where there is one."""
    return [table, f"{table}_tasks"] if table in WITH_TASKS else [table]
