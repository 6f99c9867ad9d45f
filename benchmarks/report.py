"""Tables of benchmarks/README.md, each between its marks."""

from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).with_name("README.md")


def write_table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""):
    """Put a table, and a note below it, between `<!-- NAME -->` and `<!-- end of NAME -->`."""
    table = [columns, ["---"] * len(columns), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    text = "\n".join([*lines, "", note] if note else lines)
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = README.read_text().partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}{text}{end}{after}")
