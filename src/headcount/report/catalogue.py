"""Which figures there are, what each answers, and the pages that it is drawn as.

A figure has a table (`headcount.report.tables`, `across` for several models), a drawing
(`headcount.report.figures`), and a caption in Snakemake's report, all by its name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure of a study."""

    name: str
    part: str  # of Snakemake's report
    question: str
    by_task: bool = False  # whether a page more shows task by task
    of_models: bool = False  # side by side, else of one
    on_request: bool = False  # drawn only when asked for by name

    @property
    def pages(self) -> list[str]:
        return [self.name, f"{self.name}_tasks"] if self.by_task else [self.name]


FIGURES = {
    figure.name: figure
    for figure in (
        Figure("summary", "1. Summary", "How much can be removed?"),
        Figure("head_pruning", "2. Pruning", "Heads removed", by_task=True),
        Figure("ffn_pruning", "2. Pruning", "FFNs removed", by_task=True),
        Figure("combined_pruning", "2. Pruning", "Heads and FFNs removed together"),
        Figure("transfer", "2. Pruning", "Heads removed by another task's ranking", by_task=True),
        Figure("head_importance", "3. Importance", "Which heads matter?", by_task=True),
        Figure("ffn_importance", "3. Importance", "Which FFNs matter?"),
        Figure("cross_task", "4. Agreement", "Between tasks"),
        Figure("cross_shot", "4. Agreement", "Between numbers of examples"),
        Figure("estimator_agreement", "4. Agreement", "Between estimators", on_request=True),
        Figure("induction", "5. Induction heads", "Are the important heads induction heads?"),
        Figure("retention", "5. Induction heads", "Do the induction heads stay?"),
        Figure(
            "importance_by_depth",
            "6. Across models",
            "Where does what matters lie?",
            of_models=True,
        ),
        Figure("pruning_by_model", "6. Across models", "How fast do models fall?", of_models=True),
        Figure(
            "removable_by_size",
            "6. Across models",
            "Can more be removed from larger models?",
            of_models=True,
        ),
    )
}
