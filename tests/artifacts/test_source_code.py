"""Code counts by what it means, in every module that a job reaches; packages by their versions."""

import ast
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from headcount.artifacts import source_code, syntax

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Modules below the path, of which the script imports some, in every spelling.
MODULES = {
    "lab/__init__": "from lab.listed import *",
    "lab/a": "from lab import b\nx = b.value",
    "lab/b": "import math\nvalue = 1",
    "lab/c": "def f():\n    from . import d\n    return d.value",
    "lab/d": "from lab import sub\nvalue = 2",
    "lab/e": "",
    "lab/f": "",
    "lab/dynamic": "",
    "lab/listed/__init__": "__all__ = ['one']",
    "lab/listed/one": "",
    "lab/sub/__init__": "from lab.sub.one import g",
    "lab/sub/one": "from . import two\nfrom ..e import h",
    "lab/sub/two": "import lab.sub.f as inner",
    "lab/sub/f": "",
    "lab/sub/unused": "",
    "lab/unused": "",
    "bench/deep/tool": "",  # without an __init__.py
    "scripts/helper": "import second\nif False:\n    import unknown",
    "scripts/second": "",
    "scripts/beside": "",
}
SCRIPT = """
import lab.c, helper, numpy
from lab.a import x
import importlib, bench.deep.tool
importlib.import_module("lab.dynamic")
"""
UNUSED = {"lab/f", "lab/sub/unused", "lab/unused", "scripts/beside"}


def code_hash(script):
    """What a script, and all that its numbers rest on, means."""
    return source_code.reached([(Path(script).parent, Path(script).stem)]).hash()


def lay(home: Path) -> Path:
    """The modules and the script, written below `home`; the script."""
    for name, text in MODULES.items():
        path = home / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = home / "scripts" / "script.py"
    script.write_text(SCRIPT)
    return script


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return lay(tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_a_change_counts_in_what_is_imported_and_nowhere_else(script, module):
    before = code_hash(script)
    with (script.parents[1] / f"{module}.py").open("a") as file:
        file.write("\nchanged = 1\n")
    assert (code_hash(script) != before) == (module not in UNUSED)


def test_where_code_lies_does_not_count(script, tmp_path, monkeypatch):
    before = code_hash(script)
    elsewhere = lay(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert code_hash(script.relative_to(tmp_path)) == before
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert code_hash(elsewhere) == before
    (tmp_path / "link").symlink_to(elsewhere.parent)
    assert code_hash(tmp_path / "link" / "script.py") == before


def test_two_modules_that_change_places_are_not_the_same(script):
    one, two = (script.parents[1] / "lab" / f"{name}.py" for name in ("b", "d"))
    before = code_hash(script)
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)
    assert code_hash(script) != before


FUNCTION = '''"""About."""
import math


def f(a, b=2):
    """Says."""
    text = "a" "b"  # a comment
    assert a, "said"
    return {**{1: a}, "x": f"{a:>{b}}"}, text, None, 1, math.pi, lambda: 2
'''


@pytest.mark.parametrize(
    "old,new,counts",
    [
        ("About", "Of", False),
        ('"""About."""\n', "", False),
        ("Says", "Tells", False),
        ('    """Says."""\n', "", False),
        ('"""Says."""', "...", False),
        ("  # a comment", "", False),
        ("\n\n\n", "\n", False),
        ('"a" "b"', "('ab')", False),
        ('"a" "b"', 'u"ab"', False),
        ("(a, b=2)", "(\n    a,\n    b=2,\n)", False),
        ("return", "'why'\n    return", False),
        ("return", "pass\n    return", False),
        ("return", "logger.info(a)\n    return", False),
        ("b=2", "b=3", True),
        ("b=2", "b=2.0", True),
        ("b=2", "b=True", True),
        ('"a" "b"', 'b"ab"', True),
        ("{a:>{b}}", "{a:<{b}}", True),
        ("{a:>{b}}", "{a!r:>{b}}", True),
        ("None, 1", "1, None", True),
        ("**{1: a}", "1: a", True),
        ("def f", "async def f", True),
        ("import math", "import cmath as math", True),
        ("math", "cmath", True),
        ("math.pi", "math.e", True),
        ("lambda: 2", "lambda: 3", True),
        ("assert a", "assert b", True),
        ('"said"', '"told"', False),
        ("assert a, ", "raise TypeError(a) if b else ", True),
        ('"x"', '"y"', True),
        ("Says.", "Says.{a}", False),
        ('"""Says."""', 'f"""{print()}"""', True),
    ],
)
def test_meaning_counts_and_writing_does_not(tmp_path, old, new, counts):
    script = tmp_path / "script.py"
    script.write_text(FUNCTION)
    before = code_hash(script)
    assert old in FUNCTION
    script.write_text(FUNCTION.replace(old, new))
    ast.parse(script.read_text())
    assert (code_hash(script) != before) == counts


@pytest.mark.parametrize("reader", ["f.__doc__", "inspect.getdoc(f)", "getattr(f, '__doc__')"])
def test_docstrings_that_are_read_count(tmp_path, reader):
    """A prompt may be written as one, in another module than the one that reads it."""
    (tmp_path / "prompting.py").write_text(FUNCTION)
    script = tmp_path / "script.py"
    script.write_text(f"import inspect\nfrom prompting import f\nprint({reader})\n")
    before = code_hash(script)
    (tmp_path / "prompting.py").write_text(FUNCTION.replace("Says", "Tells"))
    assert code_hash(script) != before


def test_a_function_of_its_docstring_alone_is_that_which_passes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text('def f():\n    """Nothing."""\n')
    before = code_hash(script)
    script.write_text("def f():\n    pass\n")
    assert code_hash(script) == before


def test_code_that_does_not_parse_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def f(:\n")
    with pytest.raises(SyntaxError, match="line 1") as raised:
        code_hash(script)
    assert raised.value.filename == str(script)


# --- the project's own ---


def names(script: Path) -> set[str]:
    found = source_code.reached([(script.parent, script.stem)]).files.values()
    return {str(name) for name in found}


def imported_by(script: Path) -> set[str]:
    """The project's modules that Python itself imports when a script begins, by name."""
    report = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from library import job; job.begin = lambda _: None\n"
        "snakemake = None\n"
        "try:\n    exec(compile(open(sys.argv[2]).read(), sys.argv[2], 'exec'))\n"
        "except AttributeError:\n    pass\n"
        "home = sys.argv[3]\n"
        "files = (getattr(m, '__file__', None) for m in list(sys.modules.values()))\n"
        "print(*{f for f in files if f and f.startswith(home)}, sep='\\n')"
    )
    command = [sys.executable, "-c", report, str(SCRIPTS), str(script), str(SCRIPTS.parent)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return {line for line in told.stdout.splitlines() if "site-packages" not in line}


@pytest.mark.parametrize("name", ["rank", "draw"])
def test_what_python_imports_is_reached(name):
    found = {str(path) for path in source_code.reached([(SCRIPTS, name)]).files}
    silent = {name.rpartition(".")[2] for name in source_code.SILENT_MODULES}
    left = imported_by(SCRIPTS / f"{name}.py") - found
    assert found and {Path(file).stem for file in left} <= silent


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_does_not_count_the_helpers_that_start_it(script):
    begins = "job.begin(snakemake)" in script.read_text(encoding="utf-8")
    helpers = {f"headcount_workflow/{name}.py" for name in ("job", "job_server")}
    assert not (begins and helpers & names(script))


def test_no_script_reads_docstrings():
    """Or they would count in all that it reaches."""
    for script in SCRIPTS.glob("*.py"):
        for path in source_code.reached([(SCRIPTS, script.stem)]).files:
            assert not syntax.read(path).reads_docstrings, path


def test_drawings_know_nothing_of_the_engine():
    found = names(SCRIPTS / "draw.py")
    assert (
        "headcount/report/tables.py" in found and "headcount/models/language_model.py" not in found
    )
    assert "torch" not in source_code.packages(SCRIPTS / "draw.py")


# --- packages ---


def test_packages_are_those_that_are_reached(script):
    (script.parents[1] / "lab" / "b.py").write_text("import rich, sklearn.metrics\n")
    found = source_code.packages(script)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found == {
        "python": python,
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
    }


def test_packages_that_do_the_work_of_those_imported_count():
    found = source_code.packages(SCRIPTS / "prune.py")
    needed = {"torch", "transformers", "tokenizers", "lm-eval", "datasets", "accelerate", "numpy"}
    assert needed <= {*found}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_packages_that_decide_no_number_are_in_no_key(script):
    others = {"huggingface-hub", "polars", "pyarrow", "safetensors", "snakemake"}
    assert not others & {*source_code.packages(script)}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs torch, as far as metadata tell; what `packages` says of it then."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(version, record="", **origin):
        home = tmp_path / "torch-1.dist-info"
        home.mkdir(exist_ok=True)
        (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        (home / "RECORD").write_text(record)
        (home / "direct_url.json").write_text(json.dumps(origin))
        source_code._version.cache_clear()
        return source_code.packages(SCRIPTS / "verify_model.py")["torch"]

    yield install
    source_code._version.cache_clear()


@pytest.mark.parametrize("local", ["cpu", "cu126", "cu130", "rocm6.4", "xpu"])
def test_a_build_for_other_hardware_is_the_same_version(installed, local):
    assert installed(f"2.13.0+{local}") == "2.13.0"


@pytest.mark.parametrize("local", ["nv25.1", "git1a2b3c4", "cpu.mine", "cu126.patch2"])
def test_a_build_of_other_code_is_another_version(installed, local):
    assert installed(f"2.13.0+{local}") == f"2.13.0+{local}"


def test_an_installation_of_no_release_counts_by_its_code(installed):
    url = "https://example.org/torch"
    git = {"vcs": "git", "commit_id": "1a2b3c"}
    assert installed("2.0.dev0", url=url, vcs_info=git) == "2.0.dev0@1a2b3c"
    of_archive = {
        installed("2.0", f"torch/a.py,sha256={digest},9", url=f"{url}.zip", archive_info={})
        for digest in ("x", "y")
    }
    assert len(of_archive) == 2
    first = installed("2.0", "torch/a.py,sha256=x,9", url="file:///checkout", dir_info={})
    assert first in of_archive  # the same code from elsewhere
    assert installed("2.0", url=f"{url}-2.0-py3-none-any.whl", archive_info={}) == "2.0"
    assert installed("2.0", url="file:///checkout", dir_info={"editable": True}) == "2.0"


def test_a_package_outside_of_site_packages_counts_by_all_its_code(tmp_path, monkeypatch):
    """Also by what nothing imports in so many words, as transformers' models."""
    (tmp_path / "scipy" / "lazy").mkdir(parents=True)
    (tmp_path / "scipy" / "__init__.py").touch()
    part = tmp_path / "scipy" / "lazy" / "part.py"
    script = tmp_path / "script.py"
    script.write_text("import scipy.stats\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "scipy", raising=False)
    found = set()
    for text in ("x = 1", "x = 2"):
        part.write_text(text)
        source_code._homes.cache_clear()
        source_code._checkout.cache_clear()
        found.add(source_code.packages(script)["scipy (its code)"])
    source_code._homes.cache_clear()
    assert len(found) == 2
