"""MkDocs hooks: the reference pages, made from the schema, the artifacts, the command and the code.

They are built with the site and lie nowhere else, so that they cannot say another thing than the
code. Pages link to files of the repository, as GitHub shows them; on the site, links to the library
lead to its reference, and other files are named without a link.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import yaml

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "headcount"
SCHEMAS = (PACKAGE / "study" / "schemas", REPOSITORY / "workflow" / "schemas")
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "engine.md": "src/headcount/engine/README.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_config(config):
    api = [{name: f"reference/api/{name}.md"} for name in modules()]
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference.insert(3, {"Library": ["reference/api/index.md", *api]})
    return config


def on_files(files, config):
    from mkdocs.structure.files import File  # the tests read the rest without MkDocs

    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    for uri, path in ELSEWHERE.items():
        files.append(File.generated(config, uri, content=(REPOSITORY / path).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links to files of the repository at pages of the site."""
    source = PurePosixPath(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    here = PurePosixPath(page.file.src_uri).parent

    def resolve(match):
        text, target, anchor = match.groups()
        path = os.path.normpath(source.parent / target)
        pages = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()}
        pages |= {path: uri for uri, path in ELSEWHERE.items()} | {"README.md": "index.md"}
        if path in pages:
            return f"[{text}]({os.path.relpath(pages[path], here)}{anchor or ''})"
        if module := library_page(path):
            return f"[{text}]({os.path.relpath(module, here)})"
        return match[0] if path.startswith("docs/") else text

    return LINK.sub(resolve, markdown)


def library_page(path: str) -> str | None:
    """The page and anchor of a file below src/headcount."""
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[:2] != ("src", "headcount") or not (REPOSITORY / path).exists():
        return None
    inside = [part for part in parts[2:] if part != "__init__"]
    if not inside or inside[0] not in modules():
        return "reference/api/index.md"
    return f"reference/api/{inside[0]}.md#{'.'.join(['headcount', *inside])}"


def generated() -> dict[str, str]:
    """Address of every reference page -> its Markdown."""
    pages = {
        "reference/configuration.md": configuration(),
        "reference/artifacts.md": artifact_schemas(),
        "reference/command-line.md": command_line(),
        "reference/api/index.md": "# The library\n\n::: headcount\n    options: {members: true}\n",
    }
    for name in modules():
        pages[f"reference/api/{name}.md"] = f"# headcount.{name}\n\n::: headcount.{name}\n" + (
            "    options: {show_submodules: true}\n" if (PACKAGE / name).is_dir() else ""
        )
    return pages


def modules() -> list[str]:
    """Modules and packages of the library that are not private."""
    paths = [*PACKAGE.glob("*.py"), *(path.parent for path in PACKAGE.glob("*/__init__.py"))]
    return sorted(path.stem for path in paths if not path.stem.startswith("_"))


# --- the configuration ---


def schema() -> dict:
    path = next(place for place in SCHEMAS if place.is_dir()) / "config.schema.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def configuration() -> str:
    found = schema()
    lines = ["# Configuration", "", found["description"].strip(), ""]
    for path, entry, required in keys(found, found):
        said = " ".join(entry.get("description", "").split())
        of_type, default = kind(entry), shown_default(entry, required)
        if "." not in path:
            about = f"*{', '.join(filter(None, [of_type, default]))}*"
            lines += ["", f"## {path}", "", about, "", said, ""]
            if any(keys(entry, found)):
                lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        else:
            cells = f"`{path.partition('.')[2]}`", of_type, default, said
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    example = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
    return "\n".join([*lines, "", "## The embedded study", "", "```yaml", example + "```", ""])


def shown_default(entry: dict, required: bool) -> str:
    if required:
        return "required"
    return f"`{json.dumps(entry['default'])}`" if entry.get("default", {}) != {} else ""


def keys(entry: dict, root: dict, path: str = ""):
    """(path, schema, whether it is required) of every key; NAME stands for a name of the user's."""
    for name, inner in entry.get("properties", {}).items():
        if "$ref" in inner:
            inner = root["$defs"][inner["$ref"].rpartition("/")[2]] | inner
        yield f"{path}{name}", inner, name in entry.get("required", [])
        yield from keys(inner, root, f"{path}{name}.")
    if isinstance(others := entry.get("additionalProperties"), dict):
        yield from keys(others, root, f"{path}NAME.")


def kind(entry: dict) -> str:
    """The type of a key in words: `float32` or `bfloat16`; integer, at least 2."""
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    types = entry.get("type", "")
    words = " or ".join([types] if isinstance(types, str) else types)
    words = words.replace("object", "mapping").replace("array", "list")
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    bounds |= {"exclusiveMaximum": "below"}
    limits = [f"{word} {entry[key]}" for key, word in bounds.items() if key in entry]
    return ", ".join([words, *limits])


# --- the artifacts ---


def artifact_schemas() -> str:
    from headcount.artifacts import schemas

    said = remarks(Path(schemas.__file__).read_text(encoding="utf-8"))
    lines = [
        "# Artifacts",
        "",
        "The columns of every Parquet file below `artifacts/`, as the library declares them. Where "
        "each file lies and what a row is: [Read the results](../results.md). `NAME_low` and "
        "`NAME_high` bound the 95 % interval of `NAME`.",
        "",
    ]
    for name, columns in schemas.SCHEMAS.items():
        lines += [f"## {name}", "", *said.get((name, None), []), ""]
        lines += ["| column | type | null | |", "| --- | --- | --- | --- |"]
        for field in columns:
            note = " ".join(said.get((name, field.name), []))
            null = "yes" if field.nullable else ""
            lines.append(f"| `{field.name}` | {field.type} | {null} | {note} |")
        lines.append("")
    return "\n".join(lines)


def remarks(source: str) -> dict[tuple, list[str]]:
    """The comments of `schemas.ROWS`: above a schema, or (schema, column) beside a column."""
    said, above, name = {}, [], None
    for line in source.partition("ROWS: dict")[2].splitlines():
        code, _, comment = line.partition("#")
        if opened := re.match(r'    "(\w+)": pa\.schema\(', code):
            name = opened[1]
            said[name, None], above = above, []
        elif comment and not code.strip():
            above.append(comment.strip())
        else:
            above = []
            if comment and (column := re.search(r'(?:field|_interval)\("(\w+)"', code)):
                said[name, column[1]] = [comment.strip()]
        if line == "}":
            break
    return said


# --- the command ---


def command_line() -> str:
    whole = said_by()
    lines = ["# Command line", "", "```text", whole, "```", ""]
    for command in re.findall(r"^    ([a-z][a-z-]*)(?: |$)", whole, re.MULTILINE):
        lines += [f"## headcount {command}", ""]
        if command == "lm-eval":  # all else are lm-eval's own arguments
            lines += ["lm-eval's own command and arguments: [how to use it](../lm-eval.md).", ""]
            continue
        lines += ["```text", said_by(command), "```", ""]
    return "\n".join(lines)


def said_by(*command: str) -> str:
    terminal = {"COLUMNS": "90", "NO_COLOR": "1", "PYTHONPATH": str(PACKAGE.parent)}
    run = [sys.executable, "-m", "headcount", *command, "--help"]
    result = subprocess.run(run, text=True, capture_output=True, env=os.environ | terminal)
    result.check_returncode()
    return result.stdout.rstrip()
