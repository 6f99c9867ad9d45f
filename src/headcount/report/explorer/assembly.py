"""One HTML file of the assets and the data.

The scripts are ES modules, which a file without a server cannot import: each becomes a function
that returns what the module exports, in one script.
"""

import html
import json
import re
from pathlib import Path
from string import Template

from headcount.report.explorer.gathering import Gathered
from headcount.report.explorer.packing import pack
from headcount.report.vocabulary import ESTIMATORS, ORDERS, VIRIDIS

ASSETS = Path(__file__).parent / "assets"
# In an order in which each follows those that it imports.
MODULES = [  # the first is `headcount.report.vocabulary`
    *(
        "vocabulary",
        "pack",
        "dom",
        "words",
        "colours",
        "study",
        "state",
        "summary",
        "controls",
        "slider",
        "map",
    ),
    *("ranks", "point", "curves", "together", "documents", "agreement", "scatter", "main"),
]
IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?(?:const|function) (\w+))", re.MULTILINE)


def page(gathered: Gathered) -> str:
    """The page as text. It asks for nothing else: neither for a file nor for the network."""
    parts = {"study": gathered.study}
    parts |= {f"documents-{i}": part for i, part in enumerate(gathered.documents)}
    name = gathered.study["model"]["name"]
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(gathered.study["names"].get(name, name)),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        data="\n".join(
            f'<script type="application/octet-stream" id="{name}">{pack(part)}</script>'
            for name, part in parts.items()
        ),
        script="\n".join(["const modules = {};", *map(_script, MODULES)]),
    )


def _script(name: str) -> str:
    """A module as a script that finds other modules in `modules`, and adds itself."""
    file = ASSETS / f"{name}.js"
    source = _vocabulary() if name == "vocabulary" else file.read_text(encoding="utf-8")
    exported = [name for _, name in EXPORT.findall(source)]
    body = EXPORT.sub(r"\1", IMPORT.sub(r"const \1 = modules.\2;", source))
    if name == MODULES[-1]:  # waits, which only the top of a script may
        return body
    return f"modules.{name} = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();"


def _vocabulary() -> str:
    """The module of the names and marks that the page shares with the figures."""
    orders = {name: order._asdict() for name, order in ORDERS.items()}
    shared = {"ORDERS": orders, "ESTIMATORS": ESTIMATORS, "VIRIDIS": VIRIDIS}
    return "\n".join(f"export const {name} = {json.dumps(what)};" for name, what in shared.items())
