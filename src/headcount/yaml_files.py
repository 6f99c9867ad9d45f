"""YAML files that people write: read as UTF-8, a slip told with its file, line and column."""

import codecs
from pathlib import Path

import yaml


class YamlError(ValueError):
    """A file that cannot be read as YAML; the message says where and why."""


def load(path: str | Path, loader: type | None = None) -> dict:
    """The `key: value` pairs of the file at `path`, read with PyYAML's safe `loader`.

    Raises `YamlError` when it is not there, no YAML, or holds something else.
    """
    try:
        content = yaml.load(text(path), loader or yaml.SafeLoader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
        problem = getattr(error, "problem", None) or error
        raise YamlError(f"{path}{where} is not valid YAML: {problem}{_hint(error)}") from error
    except OSError as error:
        raise YamlError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise YamlError(f"{path} holds no `key: value` pairs")
    return content


def text(path: str | Path) -> bytes:
    """The content of a text file, without the byte-order mark that some editors write."""
    return Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)


def _hint(error: yaml.YAMLError) -> str:
    """The remedy of the two slips that are made most."""
    problem = str(getattr(error, "problem", ""))
    if "'\\t'" in problem:
        return ": indent with spaces, not with tabs"
    if "unhashable" in problem:
        return ": a text that begins with {{ stands in quotes"
    return ""
