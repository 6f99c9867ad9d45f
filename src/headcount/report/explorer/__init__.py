"""The explorer: one page of a model's study, to look through in a browser without a network.

`page(gather(files))` is the whole HTML file: its style and scripts (`explorer/assets`), and the
study's numbers, compressed. What it shows is read from the artifacts and from the tables of the
figures, so that both say the same.
"""

from headcount.report.explorer.assembly import page
from headcount.report.explorer.gathering import Files, gather

__all__ = ["Files", "gather", "page"]
