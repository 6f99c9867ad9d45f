"""What artifacts were made of: keys, damage, earlier versions, and what has to run."""

import os
import shutil
import signal

import pyarrow as pa
import pytest

from headcount.artifacts import hashes, lineage, storage

SCHEMA = pa.schema([("value", pa.int32())])


class Workflow:
    """Two jobs: one makes a, the other makes b and a figure of it."""

    def __init__(self, directory):
        self.directory = directory
        self.config = directory / "config.yaml"
        self.config.write_text("")

    def jobs(self, value=1, seed=0, **of_both):
        places = {}
        paths = {name: str(self.directory / name) for name in ("a.parquet", "b.parquet", "b.png")}
        both = {"directory": str(self.directory), "places": places}
        return [
            lineage.Job(
                "first",
                {"task": "t"},
                {"value": value, **of_both},
                [str(self.config)],
                [paths["a.parquet"]],
                **both,
            ),
            lineage.Job(
                "second",
                {"task": "t"},
                {"seed": seed, **of_both},
                [paths["a.parquet"]],
                [paths["b.parquet"], paths["b.png"]],
                **both,
            ),
        ]

    def run(self, **parameters):
        """What jobs do: take back, or compute; returns the rules that computed."""
        computed = []
        values = {"first": parameters.get("value", 1), "second": 7}
        for job in self.jobs(**parameters):
            value = values[job.rule]
            if job.problem() is None:
                continue
            if job.earlier():
                job.take_back()
                continue
            job.keep()
            computed.append(job.rule)
            files = {}
            if job.rule == "second":
                (self.directory / "b.png").write_text(f"figure of {value} {parameters}")
                files = lineage.seals([str(self.directory / "b.png")])
            made = {"key": job.key, "made_of": job.made_of, "files": files}
            storage.write(job.outputs[0], [{"value": value}], SCHEMA, made)
        return computed

    def stale(self, take_back=False, **parameters):
        """The files of the jobs that have to run, and what is said of them."""
        jobs = self.jobs(**parameters)
        state = lineage.examine(jobs)
        if take_back:
            for job in state.replaced:
                job.take_back()
        remade = lineage.following(jobs, [one.job for one in state.stale])
        found = sorted(os.path.basename(path) for job in remade for path in job.outputs)
        return found, [one.damage for one in state.stale if one.damage]

    def files(self):
        """All files, with their contents and times."""
        paths = [path for path in self.directory.rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def workflow(tmp_path):
    made = Workflow(tmp_path)
    assert made.run() == ["first", "second"]
    return made


def test_times_have_no_say_and_stay(workflow):
    for name, time in (("config.yaml", 300), ("a.parquet", 200), ("b.parquet", 100), ("b.png", 50)):
        os.utime(workflow.directory / name, (time, time))
    before = workflow.files()
    assert workflow.stale() == ([], [])
    assert workflow.stale(seed=1)[0] == ["b.parquet", "b.png"]
    assert workflow.files() == before


# --- what was seen before ---


@pytest.fixture
def memory(workflow, tmp_path, monkeypatch):
    """What `examine` has remembered of the workflow, whose files have not changed for a while."""
    monkeypatch.setattr(hashes, "SETTLED", -1)
    lineage.examine(workflow.jobs(), tmp_path / "memory.json")
    return tmp_path / "memory.json"


def test_what_was_seen_before_is_not_read_again(workflow, memory, monkeypatch):
    for module, reads in ((storage, "provenance"), (hashes, "read")):
        monkeypatch.setattr(module, reads, lambda path: pytest.fail(f"{path} is read again"))
    assert lineage.examine(workflow.jobs(), memory) == lineage.State([], [], [])
    assert len(lineage.examine(workflow.jobs(value=2), memory).stale) == 1


@pytest.mark.parametrize("name", ["b.parquet", "b.png"])
def test_what_has_changed_is_read_whatever_its_time_and_size(workflow, memory, name):
    path = workflow.directory / name
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (stale,) = lineage.examine(workflow.jobs(), memory).stale
    assert name in stale.damage


def test_what_has_just_changed_is_read_again(workflow, tmp_path):
    """Another change in the same tick of the file system's clock would leave the same times."""
    lineage.examine(workflow.jobs(), tmp_path / "memory.json")
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"identity /a": "of another version"}'])
def test_a_memory_that_cannot_be_read_is_none(workflow, memory, text):
    memory.write_text(text)
    assert lineage.examine(workflow.jobs(), memory) == lineage.State([], [], [])
    assert len(memory.read_text()) > len(text)


def test_a_memory_that_cannot_be_written_is_none(workflow, memory):
    nowhere = memory / "beside" / "memory.json"
    assert lineage.examine(workflow.jobs(), nowhere) == lineage.State([], [], [])


# --- what has to run ---


def test_what_needs_a_stale_file_follows_it(workflow):
    assert workflow.stale(value=2)[0] == ["a.parquet", "b.parquet", "b.png"]


def test_equal_content_cuts_off_what_follows(workflow):
    first, _ = workflow.jobs(code="other")
    made = {"key": first.key, "made_of": first.made_of}
    storage.write(first.outputs[0], [{"value": 1}], SCHEMA, made)  # the same rows
    first, second = workflow.jobs()
    assert first.problem() and not second.problem()


def test_a_changed_input_changes_what_is_made_of_it(workflow):
    assert workflow.run(value=2) == ["first", "second"]


def test_an_earlier_version_is_taken_back(workflow):
    figure = (workflow.directory / "b.png").read_text()
    workflow.run(value=2)
    assert (workflow.directory / "b.png").read_text() != figure
    assert workflow.stale() == ([], [])  # as a dry run sees it, which changes no content
    assert (workflow.directory / "b.png").read_text() != figure
    assert workflow.stale(take_back=True) == ([], [])
    assert (workflow.directory / "b.png").read_text() == figure
    assert workflow.run(value=2) == []


def test_earlier_versions_take_a_limited_space_and_the_oldest_go_first(workflow):
    for value in range(2, 10):
        workflow.run(value=value)
    earlier = workflow.directory / lineage.EARLIER / "a.parquet"
    lineage.forget(workflow.directory)
    assert len(list(earlier.iterdir())) == 8
    for time, value in enumerate([5, *range(1, 5), *range(6, 9)]):
        (of_value,) = [path for path in earlier.iterdir() if content(path) == value]
        os.utime(of_value, (time, time))
    size = sum(path.stat().st_size for path in earlier.rglob("*.parquet"))
    others = workflow.directory / lineage.EARLIER / "b.parquet"
    shutil.rmtree(others)
    lineage.forget(workflow.directory, size // 2)
    assert {content(path) for path in earlier.iterdir()} == {4, 6, 7, 8}


def content(version):
    return storage.frame(version / "a.parquet")["value"].item()


def test_damage_is_found_and_named(workflow):
    figure = workflow.directory / "b.png"
    figure.write_text(figure.read_text()[:5])
    files, [told] = workflow.stale()
    assert files == ["b.parquet", "b.png"]
    assert "b.png is damaged" in told
    assert workflow.run() == ["second"]


def test_a_damaged_input_is_not_what_others_were_made_of(workflow):
    path = workflow.directory / "a.parquet"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert workflow.stale()[0] == ["a.parquet", "b.parquet", "b.png"]
    assert workflow.run() == ["first"]  # which is what it was: the second has nothing to do


def test_a_missing_input_makes_what_follows_stale(workflow):
    (workflow.directory / "a.parquet").unlink()
    assert workflow.stale()[0] == ["b.parquet", "b.png"]


def test_the_directory_can_move(workflow, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved") / "artifacts"
    workflow.directory.rename(elsewhere)
    moved = Workflow(elsewhere)
    assert moved.stale() == ([], [])
    assert moved.run() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_outputs_of_another_user_become_ones_own(workflow):
    """Without a change of what they say: a job that fails leaves them."""
    workflow.run()
    first, _ = workflow.jobs()
    [path] = first.outputs
    before = storage.read(path)
    os.chown(path, 65534, 65534)
    first.own()
    assert os.stat(path).st_uid == os.geteuid() and storage.read(path) == before
    os.remove(path)
    first.own()
    assert not os.path.exists(path)


def test_a_damaged_earlier_version_is_not_taken_back(workflow):
    workflow.run(value=2)
    [earlier] = (workflow.directory / lineage.EARLIER / "b.parquet").rglob("b.png")
    earlier.write_text("half")
    assert workflow.run() == ["second"]  # the first is taken back


def test_why_tells_old_and_new_values(workflow):
    told = workflow.directory / "told.json"
    state = lineage.examine(workflow.jobs(seed=3))
    lineage.tell(state.stale, workflow.directory, told)
    made, state, changed = lineage.why(workflow.directory / "b.parquet", told)
    assert made["parameters"]["seed"] == 0
    assert state == "stale: made from something else"
    assert changed == {"parameters.seed": (0, 3)}
    _, state, changed = lineage.why(workflow.directory / "a.parquet", told)
    assert state.startswith("current") and not changed


@pytest.mark.parametrize("copied", [0, 1])
def test_a_kill_while_a_version_is_kept_leaves_no_half_of_one(workflow, monkeypatch, copied):
    """After none or one of its two files."""
    job = workflow.jobs()[1]
    if not (child := os.fork()):
        copy, left = lineage._copy, [None] * copied

        def killed(*paths):
            copy(*paths) if left else os.kill(os.getpid(), signal.SIGKILL)
            left.pop()

        monkeypatch.setattr(lineage, "_copy", killed)
        job.keep()
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert job.earlier() == {}
    job.keep()
    assert len(job.earlier()) == 2
    (version,) = (workflow.directory / lineage.EARLIER / "b.parquet").iterdir()
    assert {path.name for path in version.iterdir()} == {"b.parquet", "b.png"}


def test_half_of_a_version_is_made_whole(workflow):
    job = workflow.jobs()[1]
    job.keep()
    [figure] = (workflow.directory / lineage.EARLIER / "b.parquet").rglob("b.png")
    figure.unlink()
    job.keep()
    assert len(job.earlier()) == 2
