"""Checks of a task's templates: some documents are rendered as lm-eval renders them.

Two mistakes are found: fields that a template names and no document has, and targets that name none
of the choices, which lm-eval would score as wrong in every document.
"""

import ast
from typing import Any

import jinja2
import jinja2.meta

from headcount.messages import did_you_mean
from headcount.tasks.datasets import evaluated_split
from headcount.tasks.files import Function
from headcount.tasks.streams import Split

TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
READ = 10  # documents to render
MOST = 5000  # documents whose targets are read where none of the first names a choice


def problems(config: dict, documents: Split, evaluated: int | None) -> list[str]:
    """Return the mistakes in a task's templates, by the first documents of the evaluated split.

    At most `evaluated` documents are evaluated (None: all). Templates and documents that code
    creates are not checked, nor are documents that cannot be read here.
    """
    if config.get("process_docs") or config.get("use_prompt"):
        return []
    docs = documents.first(min(READ, evaluated or READ))
    columns = documents.columns or [*docs[0]] if docs else []
    found = [problem for key in TEMPLATES if docs for problem in _of(config, key, docs, columns)]
    return found or (_targets(config, documents, docs, evaluated) if docs else [])


def _of(config: dict, key: str, docs: list[dict], columns: list[str]) -> list[str]:
    """Return the mistake in one template, if there is one."""
    template = config.get(key)
    if not isinstance(template, str) or isinstance(template, Function) or template in columns:
        return []
    there = f"its documents have {', '.join(columns)}"
    for number, doc in enumerate(docs):
        try:
            _value(doc, template, key)
        except jinja2.TemplateSyntaxError as error:
            return [f"{key} is not a valid template: {error.message}"]
        except Exception as error:  # whatever a template does, lm-eval's rendering ends in it too
            unknown = sorted(_names(template) - {*columns})
            return [
                f"{key} names {name!r}, {there}{did_you_mean(name, columns)}" for name in unknown
            ] or [
                f"{key} cannot be rendered for document {number} of {evaluated_split(config)!r}: "
                f"{error or type(error).__name__} ({there})"
            ]
    plain = key == "doc_to_target" and not _names(template) and not _are_contexts(config, docs[0])
    if plain and _names_nothing(config, template):
        hint = did_you_mean(template, columns)
        return [f"{key} is {template!r}, which is no field and no choice; {there}{hint}"]
    return []


def _are_contexts(config: dict, doc: dict) -> bool:
    """Whether a document's choices are contexts, and doc_to_text the index of the right one.

    True where doc_to_text cannot be rendered, which is reported by itself.
    """
    inputs = config.get("doc_to_text")
    try:
        return isinstance(inputs, Function) or isinstance(_value(doc, inputs, "doc_to_text"), int)
    except Exception:
        return True


def _names(template: str) -> set[str]:
    """Return the names that a template takes from a document."""
    from lm_eval.utils import env

    return jinja2.meta.find_undeclared_variables(env.parse(template)) - {*env.globals}


def _names_nothing(config: dict, target: str) -> bool:
    choices = config.get("doc_to_choice")
    return (
        config["output_type"] == "multiple_choice"
        and not target.strip().isdigit()
        and not (isinstance(choices, list) and target in choices)
        and "{" not in target
    )


# --- targets ---


def _targets(config: dict, documents: Split, docs: list[dict], evaluated: int | None) -> list[str]:
    """Return the mistake that no evaluated document's target names a choice, if that is so.

    As in lm-eval, a target is a number or the text of a choice. `docs` are looked at first. Targets
    and choices that code creates are not checked.
    """
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    by_code = isinstance(target, Function) or isinstance(choices, Function)
    if config["output_type"] != "multiple_choice" or by_code or choices is None:
        return []
    if _are_contexts(config, docs[0]):
        return []
    if _any_names_a_choice(docs, target, choices):
        return []
    rest = documents.first(min(MOST, evaluated or MOST))
    too_many = len(rest) == MOST and (evaluated or MOST + 1) > MOST
    if too_many or _any_names_a_choice(rest, target, choices):
        return []
    shown, of = _value(docs[0], target, "doc_to_target"), _choices(docs[0], choices)
    return [
        f"doc_to_target names a choice in no document of {evaluated_split(config)!r} (in the first "
        f"it is {_short(shown)}, the choices are {_short(of)}): give the number or the text of a "
        "choice, or, where labels are hidden, evaluate a split that has them"
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _any_names_a_choice(docs: list[dict], target: Any, choices: Any) -> bool:
    """Whether a target names a choice, or one cannot be rendered, which lm-eval will report."""
    try:
        return any(_names_a_choice(doc, target, choices) for doc in docs)
    except Exception:
        return True


def _names_a_choice(doc: dict, target: Any, choices: Any) -> bool:
    value, names = _value(doc, target, "doc_to_target"), _choices(doc, choices)
    if isinstance(value, list):
        return any(isinstance(one, int) and 0 <= one < len(names) for one in value)
    if isinstance(value, bool | int):
        return 0 <= value < len(names)
    return value in names


def _choices(doc: dict, choices: Any) -> list:
    if isinstance(choices, dict):
        return [*choices.values()]
    return _value(doc, choices, "doc_to_choice")


def _value(doc: dict, template: Any, key: str) -> Any:
    """Return the value that lm-eval gives the template `key` for a multiple-choice document."""
    from lm_eval.utils import apply_template

    if not isinstance(template, str):
        return template
    if template in doc:
        return doc[template]
    text = apply_template(template, doc)
    if key == "doc_to_choice" or text.isdigit():
        return ast.literal_eval(text)
    if key == "doc_to_target" and text[:1] == "[" and text[-1:] == "]":
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    return text
