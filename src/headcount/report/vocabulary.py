"""What figures and explorer call things, and how they draw them: one name, colour and mark each.

Orders of removal have the same colour, dash and mark everywhere: Okabe and Ito's palette, which
colour-blind readers can tell apart, and dashes and marks for grey print.
"""

from typing import NamedTuple


class Order(NamedTuple):
    """An order of removal: its name in legends, colour, dash (points drawn, left out...), mark."""

    name: str
    color: str
    dash: list[int]
    mark: str  # by Vega's names


ORDERS = {
    "own": Order("the task's own ranking", "#0072B2", [1, 0], "circle"),
    "aggregate": Order("mean over tasks", "#D55E00", [6, 2], "square"),
    "closest": Order("closest task's ranking", "#56B4E9", [4, 2, 1, 2], "triangle-up"),
    "farthest": Order("farthest task's ranking", "#E69F00", [3, 1], "triangle-down"),
    "depth": Order("top layers first", "#009E73", [2, 2], "diamond"),
    "random": Order("random order", "#777777", [1, 2], "cross"),
}
ESTIMATORS = {
    "gradient-token": "gradient (token)",
    "gradient-example": "gradient (example)",
    "oracle-task": "oracle (metric)",
    "oracle-loss": "oracle (loss)",
}
# A scale that reads the same in grey, from dark to light.
VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"]
VIRIDIS += ["#fde725"]
