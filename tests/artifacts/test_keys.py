"""Which keys an edit of the code changes: those of the rules' scripts, and of the evaluations.

Each row of the tables is an edit of a copy of the code, and the keys that it changes. No job runs
but in the last test: what a dry run makes of such keys is in `tests/workflow/test_staleness.py`.
"""

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from study import REPOSITORY

import headcount
from headcount.artifacts import source_code, storage, syntax
from headcount.engine import Masks, ablation
from headcount.models.language_model import Prompt
from headcount.scores import evaluation_store, importance

SCRIPTS = {
    path.stem
    for path in (REPOSITORY / "scripts").glob("*.py")
    if "job.begin(snakemake)" in path.read_text(encoding="utf-8")
}
LIBRARY, WORKFLOW = "src/headcount", "src/headcount_workflow"
# Module that decides nothing, or another -> the file, and an edit that means something else.
NOTHING = {
    "headcount_workflow.job": (
        f"{WORKFLOW}/job.py",
        "levelname)s %(name",
        "levelname)s from %(name",
    ),
    "headcount_workflow.job_log": (
        f"{WORKFLOW}/job_log.py",
        'FAILED = "FAILED: "',
        'FAILED = "NOT MADE: "',
    ),
    "headcount_workflow.job_server": (f"{WORKFLOW}/job_server.py", "QUEUE = 1000", "QUEUE = 900"),
    "headcount_workflow.job_model": (f"{WORKFLOW}/job_model.py", ".is_dir()", ".exists()"),
    "headcount_workflow.job_task": (f"{WORKFLOW}/job_task.py", 'CHANGED = "the', 'CHANGED = "this'),
    "headcount.artifacts.storage": (f"{LIBRARY}/artifacts/storage.py", '"zstd"', '"snappy"'),
    "headcount.models.checkpoints": (
        f"{LIBRARY}/models/checkpoints.py",
        "at_most: int = 3",
        "at_most: int = 5",
    ),
    "headcount.artifacts.gpus": (f"{LIBRARY}/artifacts/gpus.py", "else 0.5)", "else 0.1)"),
    "headcount.artifacts.hashes": (f"{LIBRARY}/artifacts/hashes.py", "LARGE = 64", "LARGE = 0"),
    "headcount.artifacts.lineage": (
        f"{LIBRARY}/artifacts/lineage.py",
        "_version",
        "_directory_of_version",
    ),
    "headcount.artifacts.locks": (f"{LIBRARY}/artifacts/locks.py", "MOMENT = 5", "MOMENT = 6"),
    "headcount.artifacts.parts": (f"{LIBRARY}/artifacts/parts.py", "SECONDS = 120", "SECONDS = 0"),
    "headcount.progress": (f"{LIBRARY}/progress.py", "SECONDS = 10", "SECONDS = 0"),
    "headcount.artifacts.source_code": (
        f"{LIBRARY}/artifacts/source_code.py",
        "_hash(",
        "_sha256(",
    ),
    "headcount.artifacts.syntax": (f"{LIBRARY}/artifacts/syntax.py", "_below", "_nodes_below"),
    "headcount.artifacts.temporaries": (
        f"{LIBRARY}/artifacts/temporaries.py",
        '".headcount-"',
        '".of-headcount-"',
    ),
}
SAID = {
    "an error of checkpoints": (
        f"{LIBRARY}/models/checkpoints.py",
        "is an adapter",
        "is but an adapter",
    ),
    "an error of conversion": (
        f"{LIBRARY}/models/conversion.py",
        "contains no {kind",
        "has no {kind",
    ),
    "an error of the engine": (
        f"{LIBRARY}/engine/attention.py",
        "is passed where one",
        "came where one",
    ),
    "a log line of the engine": (f"{LIBRARY}/engine/_backend.py", "which is slower", "slower"),
    "a docstring of the engine": (f"{LIBRARY}/engine/padded.py", '"""Whether', '"""Tell whether'),
    "a comment in the engine": (f"{LIBRARY}/engine/states.py", "import torch", "import torch  # !"),
    "a printed line": (
        f"{LIBRARY}/verification/verdict.py",
        "{seconds:.1f} s",
        "{seconds:.2f} seconds",
    ),
    "the command line": (f"{LIBRARY}/cli/__init__.py", "import", "import sys\nimport"),
    "a function nobody calls": (
        f"{LIBRARY}/engine/trie.py",
        "def _common",
        "def f(): pass\n\n\ndef _common",
    ),
}
SCORED = {"score_estimators", "score_importance"}
SWEEPING = {"check_parity", "prune", "verify_model", *SCORED}
OF_MODELS = {"evaluations", "gradients", "score_induction", *SWEEPING}
SOME = {
    "a factor of gradients": (
        (f"{LIBRARY}/engine/gradients.py", "of_activation.float())", "of_activation.float() * 2)"),
        {"gradients", "verify_model", *SCORED},
    ),
    "a factor of attention": (
        (
            f"{LIBRARY}/engine/attention.py",
            "(query * settings.scaling)",
            "(query * settings.scaling * 2)",
        ),
        {*OF_MODELS, "tabulate_parity"},
    ),
    "a sum of likelihoods": (
        (f"{LIBRARY}/engine/likelihoods.py", "log_softmax", "softmax"),
        {"evaluations", *SWEEPING},
    ),
    "a mean in place of what is removed": (
        (f"{LIBRARY}/engine/ablation.py", "1 / classes", "2 / classes"),
        {"prune", "verify_model", *SCORED},
    ),
    "where FFNs are": (
        (f"{LIBRARY}/models/families.py", '"fc2"', '"fc3"'),
        {*OF_MODELS, "resolve_model"},
    ),
    "the model": (
        (
            f"{LIBRARY}/models/language_model.py",
            "hf.eval().requires_grad_(False)",
            "hf.requires_grad_(False)",
        ),
        {*OF_MODELS, "resolve_model"},
    ),
    "what is converted": (
        (f"{LIBRARY}/models/conversion.py", '"BF16"', '"BF17"'),
        {"resolve_model"},
    ),
    "what a checkpoint is": (
        (f"{LIBRARY}/models/fingerprint.py", 'path.suffix == ".json"', "False"),
        {"resolve_model"},
    ),
    "the store of evaluations": (
        (f"{LIBRARY}/scores/evaluation_store.py", "np.isnan(self.sums)", "~np.isfinite(self.sums)"),
        SWEEPING - {"verify_model"},
    ),
    "what verification asks": (
        (f"{LIBRARY}/verification/properties.py", "LONGEST = 128", "LONGEST = 64"),
        {"verify_model"},
    ),
    "the most that verification allows": (
        (f"{LIBRARY}/verification/tolerance.py", "CEILING = 0.1", "CEILING = 1"),
        {"verify_model"},
    ),
    "an induction score": (
        (f"{LIBRARY}/scores/induction.py", "REPEATS = 4", "REPEATS = 5"),
        {"score_induction"},
    ),
    "a column's type": (
        (f"{LIBRARY}/artifacts/schemas.py", '"score", pa.float64()', '"score", pa.float32()'),
        SCRIPTS - {"explore", "resolve_model", "tabulate_parity"},
    ),
    "a figure": ((f"{LIBRARY}/report/figures/components.py", "TOP =", "TOP = 2 *"), {"draw"}),
    "a table": ((f"{LIBRARY}/report/tables.py", "MEANS =", "MEANS = 2 *"), {"draw"}),
    "the explorer": ((f"{LIBRARY}/report/explorer/packing.py", "mtime=0", "mtime=1"), {"explore"}),
    "a script": (("scripts/rank.py", '"score"]', '"score", "n"]'), {"rank"}),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the code."""
    home = tmp_path_factory.mktemp("tree")
    for name in ("scripts", "src"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "assets")
        shutil.copytree(REPOSITORY / name, home / name, ignore=ignored)
    return home


@pytest.fixture(scope="module")
def keys(copied):
    """A function that says what stands for the code in every key."""

    def told():
        home, kinds = copied / "scripts", evaluation_store.KINDS
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(copied / "src")
            patch.setattr(headcount, "__file__", str(copied / LIBRARY / "__init__.py"))
            code = source_code.Code([home])
            scripts = {one: source_code.reached([(home, one)], code).hash() for one in SCRIPTS}
            return scripts | {kind: evaluation_store.code.__wrapped__(kind) for kind in kinds}

    return told


@pytest.fixture(scope="module")
def before(keys):
    return keys()


def edited(home, path, old, new):
    """Edit a file; its content before."""
    content = (home / path).read_text(encoding="utf-8")
    assert old in content, path
    (home / path).write_text(content.replace(old, new), encoding="utf-8")
    return content


@contextmanager
def edits(home, *several):
    """Inside, files are edited."""
    contents = {}
    try:
        for edit in several:
            contents.setdefault(edit[0], edited(home, *edit))
        yield
    finally:
        for path, content in contents.items():
            (home / path).write_text(content, encoding="utf-8")


def test_edits_of_what_decides_no_number_change_no_key(copied, keys, before):
    with edits(copied, *NOTHING.values(), *SAID.values()):
        assert keys() == before


@pytest.mark.parametrize("edit,expected", SOME.values(), ids=SOME)
def test_an_edit_of_what_decides_numbers_changes_their_keys(copied, keys, before, edit, expected):
    with edits(copied, edit):
        after = keys()
    assert {name for name in before if before[name] != after[name]} == expected


def test_a_module_that_is_moved_and_renamed_changes_no_key(copied, keys, before):
    moved = copied / LIBRARY / "packing" / "tries.py"
    moved.parent.mkdir()
    moved.with_name("__init__.py").touch()
    (copied / LIBRARY / "engine" / "trie.py").rename(moved)
    importing = "from headcount.packing import tries"
    with edits(
        copied,
        (f"{LIBRARY}/engine/_backend.py", "import _rows, trie", f"import _rows\n{importing}"),
        (f"{LIBRARY}/engine/_backend.py", "trie.blocks", "tries.blocks"),
        (f"{LIBRARY}/engine/_packed.py", "from headcount.engine import trie", importing),
        (f"{LIBRARY}/engine/_packed.py", "trie.blocks", "tries.blocks"),
        (f"{LIBRARY}/engine/attention.py", "headcount.engine.trie", "headcount.packing.tries"),
    ):
        assert keys() == before
    moved.rename(copied / LIBRARY / "engine" / "trie.py")


def running(function):
    """The functions and classes of the library that run while a function does."""
    found, home = set(), str(REPOSITORY / "src")

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(home):
            found.add(frame.f_code)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    places = {code: Path(code.co_filename).relative_to(home) for code in found}
    return {(place, code.co_qualname.split(".")[0]) for code, place in places.items()}


def sweep(model):
    """Likelihoods with a head and an FFN removed and a mean in their place, and gradients."""
    prompts = [Prompt([2, 3, 4, last], [last], False) for last in (5, 6)]
    left = ablation.fit(model, prompts, "mean", seed=0)
    masks = Masks.removing(model, [([], []), ([(0, 1)], [1])], left)
    evaluation_store.log_likelihoods(model, prompts, masks)
    importance.gradient(model, prompts, "heads", "token")


def test_all_that_runs_is_counted_or_decides_nothing(opt):
    """Seen as it runs."""
    ran = running(lambda: sweep(opt))
    counted = source_code.reached([(REPOSITORY / "scripts", "score_importance")]).meanings
    names = {
        (path.relative_to(REPOSITORY / "src"), name)
        for path, index in counted
        if path.is_relative_to(REPOSITORY / "src")
        for name in syntax.read(path).statements[index].binds
    }
    silent = {Path(*module.split(".")).with_suffix(".py") for module in source_code.SILENT_MODULES}
    inner = {"<module>", "<lambda>", "<listcomp>", "<genexpr>"}
    assert len(ran) > 60
    assert {one for one in ran - names if one[0] not in silent and one[1] not in inner} == set()


def test_what_decides_nothing_is_there_and_would_be_reached(copied, keys, monkeypatch):
    declared = source_code.SILENT_MODULES
    assert declared == set(NOTHING)
    monkeypatch.setattr(source_code, "SILENT_MODULES", set())
    reached = [source_code.reached([(copied / "scripts", name)]) for name in SCRIPTS]
    names = {str(name) for sources in reached for name in sources.files.values()}
    assert {f"{module.replace('.', '/')}.py" for module in declared} <= names


@pytest.mark.slow
def test_no_number_rests_on_what_decides_nothing(finished, tmp_path):
    """All edits at once: nothing is stale, and all that is made anew is what it was."""
    study = finished.copy(tmp_path / "study")
    for edit in NOTHING.values():
        edited(study.directory, *edit)
    assert study.stale() == {}
    shutil.rmtree(study.directory / "artifacts")
    result = study.run()
    assert result.returncode == 0, result.stdout
    assert made(study) == made(finished) and len(made(finished)) > 100


def made(study):
    """The contents of a study's artifacts and figures."""
    home = study.directory / "artifacts"
    tables = [path for path in home.rglob("*.parquet") if "evaluations" not in path.parts]
    figures = [path for path in home.rglob("*") if path.suffix in (".png", ".svg", ".html")]
    found = {path.relative_to(home): storage.provenance(path)["content"] for path in tables}
    return found | {path.relative_to(home): path.read_bytes() for path in figures}
