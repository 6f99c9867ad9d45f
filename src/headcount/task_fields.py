"""Whether a task's templates fit its documents, told by reading some of them.

Fields that a template names and no document has; targets that name none of the choices, which
lm-eval would score as wrong in every document.
"""

import ast
import re
from typing import Any

import jinja2
import polars as pl

from headcount.suggestions import did_you_mean
from headcount.task_data import evaluated_split
from headcount.task_files import Function

TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
READ = 50  # documents of which targets are rendered


def problems(config: dict, frame: pl.LazyFrame | None) -> list[str]:
    """What speaks against the templates of a task; the rows of `frame` are evaluated.

    Nothing is said of documents that code changes, or whose files are not looked into.
    """
    if frame is None or config.get("process_docs"):
        return []
    columns = frame.collect_schema().names()
    found = [problem for key in TEMPLATES for problem in _template(config, key, columns)]
    return found or _targets(config, frame, columns)


def _template(config: dict, key: str, columns: list[str]) -> list[str]:
    template = config.get(key)
    if not isinstance(template, str) or isinstance(template, Function) or template in columns:
        return []
    there = f"its documents have {', '.join(columns)}"
    try:
        parsed = jinja2.Environment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        return [f"{key} is no template: {error.message}"]
    named = {node.name for node in parsed.find_all(jinja2.nodes.Name) if node.ctx == "load"}
    made = {node.name for node in parsed.find_all(jinja2.nodes.Name) if node.ctx == "store"}
    unknown = named - made - {*columns} - {*jinja2.defaults.DEFAULT_NAMESPACE, "loop"}
    found = [
        f"{key} names {name!r}, {there}{did_you_mean(name, columns)}" for name in sorted(unknown)
    ]
    if not named and key == "doc_to_target" and _names_nothing(config, template):
        hint = did_you_mean(template, columns)
        found.append(f"{key} is {template!r}, which is no field and no choice; {there}{hint}")
    return found


def _names_nothing(config: dict, target: str) -> bool:
    choices = config.get("doc_to_choice")
    return (
        config["output_type"] == "multiple_choice"
        and not target.strip().isdigit()
        and not (isinstance(choices, list) and target in choices)
        and "{" not in target
    )


# --- targets ---


def _targets(config: dict, frame: pl.LazyFrame, columns: list[str]) -> list[str]:
    """Whether a target names a choice in none of the first documents; then in none of all.

    As lm-eval takes it: a number, or the text of a choice. Whatever is made by code is passed over.
    """
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    by_code = isinstance(target, Function) or isinstance(choices, Function)
    inputs = config.get("doc_to_text")
    several = isinstance(inputs, Function) or (isinstance(inputs, str) and inputs in columns)
    if config["output_type"] != "multiple_choice" or by_code or several or choices is None:
        return []
    for rows in (frame.head(READ), frame):
        documents = rows.collect().to_dicts()
        try:
            right = any(_names_a_choice(doc, target, choices) for doc in documents)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, SyntaxError):
            return []  # lm-eval's own rendering tells
        if right or not documents:
            return []
    shown = _rendered(documents[0], target)
    of = _choices(documents[0], choices)
    return [
        f"doc_to_target names a choice in no document of {evaluated_split(config)!r} (in the first "
        f"it is {_short(shown)}, the choices are {_short(of)}): give the number or the text of a "
        "choice, or, where labels are hidden, evaluate a split that has them"
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names_a_choice(doc: dict, target: Any, choices: Any) -> bool:
    value, names = _rendered(doc, target), _choices(doc, choices)
    if isinstance(value, list):
        return any(isinstance(one, int) and 0 <= one < len(names) for one in value)
    if isinstance(value, bool | int):
        return 0 <= value < len(names)
    return value in names


def _rendered(doc: dict, target: Any) -> Any:
    """A document's target as lm-eval makes it."""
    if not isinstance(target, str):
        return target
    if target in doc:
        return doc[target]
    text = _environment().from_string(target).render(**doc)
    if text.isdigit() or (text[:1] == "[" and text[-1:] == "]"):
        return ast.literal_eval(text)
    return text


def _choices(doc: dict, choices: Any) -> list:
    if isinstance(choices, dict):
        return [*choices.values()]
    if isinstance(choices, str):
        if choices in doc:
            return doc[choices]
        return ast.literal_eval(_environment().from_string(choices).render(**doc))
    return choices


def _environment() -> jinja2.Environment:
    """As lm-eval's own (lm_eval.utils)."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = lambda text, pattern, new, count=0: re.sub(
        pattern, new, text, count=count
    )
    return environment
