"""A chart as a web page that needs no network and fits a narrow screen."""

import html
import re
from importlib.metadata import version

import vl_convert

from headcount.artifacts.hashes import memory
from headcount.artifacts.storage import atomic

# The drawing shrinks with the window.
FLUID = (
    '<meta name="viewport" content="width=device-width, initial-scale=1"><style>'
    ".vega-embed,.chart-wrapper{display:block!important;max-width:960px}"
    ".vega-embed svg.marks{width:100%;height:auto}</style>"
)
GLOBAL = "Object.assign(window, {vega, vegaLite, vegaEmbed});"
FETCHED = re.compile(r"<script src=[^>]*></script>")


def page(specification: dict) -> str:
    """The page of a chart, given as Vega-Lite, with all that draws it."""
    made = vl_convert.vegalite_to_html(specification, bundle=False, renderer="svg")
    title = html.escape(" ".join(specification["title"]["text"]))
    made = made.replace("<title>Chart</title>", f"<title>{title}</title>", 1)
    made = FETCHED.sub("", made).replace("<head>", f"<head>{FLUID}", 1)
    return made.replace("</head>", f"<script>{bundle()}</script></head>", 1)


def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script.

    To put it together takes seconds, in every process anew: so it is remembered, by the version of
    what has them. Where nothing can be written, it is put together again the next time.
    """
    path = memory() / f"vega-{version('vl-convert-python')}.js"
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        pass
    script = vl_convert.javascript_bundle(GLOBAL)
    try:
        with atomic(path) as temporary:
            temporary.write_text(script, encoding="utf-8")
    except OSError:
        pass
    return script
