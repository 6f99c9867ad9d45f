"""The configuration of a study: read, checked against its schema, and completed with defaults.

The schema, `headcount/study/schemas/config.schema.yaml`, describes every key. The workflow and the
command line both read studies by this module.
"""

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from headcount import yaml_files
from headcount.messages import did_you_mean

SCHEMA = Path(__file__).parent / "schemas" / "config.schema.yaml"


class ConfigurationError(ValueError):
    """A configuration that breaks the schema; the message has a line for each mistake."""


@cache
def schema() -> dict:
    """Return the JSON schema of a study, which describes each key."""
    return yaml_files.load(SCHEMA)


def read(path: str | Path) -> dict:
    """Return the study in the file at `path`, complete, with its paths resolved.

    Raises `ConfigurationError` when the file is no YAML or breaks the schema.
    """
    try:
        config = yaml_files.load(path)
    except yaml_files.YamlError as error:
        raise ConfigurationError(str(error)) from error
    if found := problems(config):
        raise ConfigurationError("\n".join(f"{path}: {problem}" for problem in found))
    return with_resolved_paths(completed(config), Path(path).parent)


def problems(config: dict) -> list[str]:
    """Return a line for each place where `config` breaks the schema, with its key."""
    errors = jsonschema.Draft202012Validator(schema()).iter_errors(config)
    return [line for error in errors for line in _lines(error)]


def _lines(error: jsonschema.ValidationError) -> list[str]:
    place = error.json_path.removeprefix("$").removeprefix(".")
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        return [
            f"{'.'.join(filter(None, [place, str(key)]))}: there is no such key"
            f"{did_you_mean(str(key), known) or ', but ' + ', '.join(known)}"
            for key in error.instance
            if key not in known
        ]
    if error.validator == "contains" and "const" in error.schema["contains"]:
        wanted = error.schema["contains"]["const"]
        return [f"{place}: {error.instance} lacks {wanted}, the unpruned model: add {wanted}"]
    hint = did_you_mean(str(error.instance), map(str, error.schema.get("enum", [])))
    return [f"{place or 'the file'}: {error.message}{hint}"]


def completed(config: dict) -> dict:
    """Return a copy of `config` in a normal form.

    It has the schema's defaults, sorted sets of numbers, and 50 for 50.0.
    """
    config = _with_defaults(_whole(copy.deepcopy(config)), schema())
    config["artifacts"] = os.path.normpath(config["artifacts"])
    levels = config["levels"]
    for holder, key in (
        (config, "shots"),
        (levels, "heads"),
        (levels, "ffns"),
        (levels["combined"], "heads"),
        (levels["combined"], "ffns"),
    ):
        holder[key] = sorted(holder[key])
    return config


def _whole(value: Any) -> Any:
    """Return `value` with whole numbers as integers, at any depth: the schema allows 5.0 for 5."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_defaults(value: Any, described: dict) -> Any:
    if "$ref" in described:
        described = schema()["$defs"][described["$ref"].rpartition("/")[2]] | described
    if not isinstance(value, dict):
        return value
    properties = described.get("properties", {})
    absent = {
        key: copy.deepcopy(inner["default"])
        for key, inner in properties.items()
        if key not in value and "default" in inner
    }
    others = described.get("additionalProperties") or {}
    return {
        key: _with_defaults(inner, properties.get(key, others))
        for key, inner in (value | absent).items()
    }


def with_resolved_paths(config: dict, *homes: Path) -> dict:
    """Return a copy of `config` with the relative paths of inputs resolved.

    A path starts in the current directory, where the study runs. If nothing exists there, `homes`
    are tried, such as the directory of the configuration's file. A path that exists nowhere stays
    as it is. A `~` is the user's home directory.
    """

    def found(path: str | None) -> str | None:
        if path is None or Path(path := os.path.expanduser(path)).exists():
            return path
        return next((str(home / path) for home in homes if (home / path).exists()), path)

    models = {
        name: entry | {"source": found(entry["source"])} for name, entry in config["models"].items()
    }
    return config | {
        "models": models,
        "artifacts": os.path.normpath(os.path.expanduser(config["artifacts"])),
        "task_path": found(config["task_path"]),
        "datasets": found(config["datasets"]),
    }
