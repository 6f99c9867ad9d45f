"""Tables of benchmarks/README.md, each between its marks."""

from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).with_name("README.md")


def write_table(name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""):
    """Put a table, and a note below it, between `<!-- NAME -->` and `<!-- end of NAME -->`.

    A row takes the place of the one that begins with the same cell; others stay as they are.
    """
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = README.read_text().partition(begin)
    old, _, after = rest.partition(end)
    lines = [_line(columns), _line(["---"] * len(columns))]
    known = old.splitlines()[2:] if old.startswith(lines[0]) else []
    by_name = {line.split(" | ")[0]: line for line in known if line.startswith("| ")}
    by_name |= {_line(row).split(" | ")[0]: _line(row) for row in rows}
    text = "\n".join([*lines, *by_name.values(), *(["", note] if note else [])])
    README.write_text(f"{before}{begin}{text}{end}{after}")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
