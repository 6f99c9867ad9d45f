"""What was swept once is taken from the store; only what is new is swept, and nothing is lost."""

import multiprocessing
import os
import signal

import numpy as np
import polars as pl
import pytest
import torch
from plain import order, random_prompts, tolerance

from headcount.artifacts import parts, source_code, storage
from headcount.engine import Masks, gradients, likelihoods, log_likelihoods
from headcount.models import loading as model_loading
from headcount.scores import evaluation_store, importance, pruning
from headcount.scores.documents import Evaluation, fit_ablation

pytestmark = pytest.mark.numerical

REMOVALS = [([], []), ([(0, 1), (2, 3)], []), ([], [1]), ([(1, 0), (1, 1), (1, 2)], [0, 2])]
CONTEXT = evaluation_store.context("weights", "float32", "packed")


@pytest.fixture
def swept(monkeypatch):
    """What is computed: (prompt, mask) pairs, and (prompt, component) of gradients."""
    computed = []
    in_parts, contributions = likelihoods.in_parts, gradients.contributions

    def sweep(model, prompts, masks):
        keys = evaluation_store.mask_keys(masks)
        computed.extend((prompt.key, key) for prompt in prompts for key in keys)
        return in_parts(model, prompts, masks)

    def gradient(model, prompts, component):
        computed.extend((prompt.key, component) for prompt in prompts)
        return contributions(model, prompts, component)

    monkeypatch.setattr(likelihoods, "in_parts", sweep)
    monkeypatch.setattr(gradients, "contributions", gradient)
    return computed


@pytest.fixture
def store(opt, tmp_path):
    """A function that opens the store of a job."""

    def store(**changes):
        return evaluation_store.Store(tmp_path / "kept", {**CONTEXT, **changes}, lambda: opt)

    return store


def no_model():
    raise AssertionError("the model is loaded though everything is known")


def same(model, found, expected):
    """Whether log-likelihoods differ by no more than what was swept together can make of them."""
    return (found - expected).abs().max() <= tolerance(model)


def test_what_is_known_is_not_swept_again_and_needs_no_model(opt, store, swept, tmp_path):
    prompts, masks = random_prompts(12), Masks.removing(opt, REMOVALS)
    with store() as first:
        found = evaluation_store.log_likelihoods(opt, prompts, masks, first)
    assert len(swept) == len(set(swept)) == len({p.key for p in prompts}) * len(REMOVALS)
    swept.clear()
    expected, greedy = log_likelihoods(opt, prompts, masks)
    assert same(opt, found[0], expected) and torch.equal(found[1], greedy)
    swept.clear()
    with evaluation_store.Store(tmp_path / "kept", CONTEXT, no_model) as second:
        again = evaluation_store.log_likelihoods(opt, prompts[::-1], masks[[3, 0]], second)
    assert not swept
    for of_again, of_found in zip(again, found, strict=True):
        assert torch.equal(of_again, of_found[[3, 0]].flip(1))


def test_one_mask_more_sweeps_one_and_more_prompts_sweep_theirs(opt, store, swept):
    prompts = random_prompts(12)
    known, more = {p.key for p in prompts[:8]}, {p.key for p in prompts}
    with store() as first:
        evaluation_store.log_likelihoods(opt, prompts[:8], Masks.removing(opt, REMOVALS[:3]), first)
        swept.clear()
        evaluation_store.log_likelihoods(opt, prompts[:8], Masks.removing(opt, REMOVALS), first)
        (added,) = evaluation_store.mask_keys(Masks.removing(opt, REMOVALS[3:]))
        assert set(swept) == {(prompt, added) for prompt in known} and len(swept) == len(known)
        swept.clear()
        evaluation_store.log_likelihoods(opt, prompts, Masks.removing(opt, REMOVALS), first)
        assert {prompt for prompt, _ in swept} == more - known
        assert len(swept) == len(more - known) * len(REMOVALS)


def test_a_checkpoint_is_known_by_whatever_name(opt, store, swept, tmp_path):
    """Under another name it lies in another directory; another checkpoint takes nothing of it."""
    prompts, masks = random_prompts(4), Masks.removing(opt, REMOVALS[:2])
    with store() as first:
        found, _ = evaluation_store.log_likelihoods(opt, prompts, masks, first)
        scores = importance.gradient(opt, prompts, "heads", "token", first)
    swept.clear()
    beside = [tmp_path / "nothing there", tmp_path / "kept"]
    with evaluation_store.Store(tmp_path / "renamed", CONTEXT, no_model, beside) as opened:
        assert torch.equal(evaluation_store.log_likelihoods(opt, prompts, masks, opened)[0], found)
        again = importance.gradient(opt, prompts, "heads", "token", opened)
    assert np.array_equal(again.contributions, scores.contributions) and not swept
    other = {**CONTEXT, "fingerprint": "other"}
    with evaluation_store.Store(tmp_path / "other", other, lambda: opt, beside) as opened:
        evaluation_store.log_likelihoods(opt, prompts, masks, opened)
    assert len(swept) == len({p.key for p in prompts}) * 2


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"fingerprint": "o"}, {"way": "own"}])
def test_another_context_takes_nothing(opt, store, swept, change):
    prompts, masks = random_prompts(4), Masks.removing(opt, REMOVALS[:2])
    for changes in ({}, change):
        swept.clear()
        with store(**changes) as opened:
            evaluation_store.log_likelihoods(opt, prompts, masks, opened)
            importance.gradient(opt, prompts, "heads", "token", opened)
        assert len(swept) == len({p.key for p in prompts}) * 3


def test_other_code_takes_nothing(opt, store, swept, monkeypatch):
    prompts, masks = random_prompts(4), Masks.removing(opt, REMOVALS[:2])
    with store() as opened:
        evaluation_store.log_likelihoods(opt, prompts, masks, opened)
    swept.clear()
    monkeypatch.setattr(source_code.Sources, "hash", lambda sources: "other code")
    monkeypatch.setattr(
        evaluation_store, "code", evaluation_store.code.__wrapped__
    )  # as in a new process
    with store() as opened:
        evaluation_store.log_likelihoods(opt, prompts, masks, opened)
    assert swept


# --- as stages use it ---


@pytest.fixture(scope="module")
def evaluation(prompts, yaml):
    return Evaluation(prompts, "evaluation", yaml)


def test_curves_grid_and_oracle_share_their_masks(opt, store, swept, evaluation):
    ranking = {"own": {"heads": order(opt, "heads"), "ffns": order(opt, "ffns")}}
    levels = [(0.0, 0.0), (50.0, 0.0), (0.0, 34.0), (50.0, 34.0)]
    expected = pruning.prune(opt, evaluation, ranking, levels)
    encoded = opt.encode([(row["context"], row["continuation"]) for row in evaluation.requests])
    documents = len({prompt.key for prompt in encoded})
    with store() as opened:
        pruning.prune(opt, evaluation, ranking, levels[:2], store=opened)  # curve of heads
        importance.oracle(opt, evaluation, "ffns", store=opened)  # one FFN of three: 34 %
    swept.clear()
    with store() as opened:
        grid = pruning.prune(opt, evaluation, ranking, levels, store=opened)
    assert len(swept) == documents  # (50, 34) alone
    assert grid.keys() == expected.keys()
    for found, row in zip(grid["own"], expected["own"], strict=True):
        sums = torch.tensor(found.pop("log_likelihoods")), torch.tensor(row.pop("log_likelihoods"))
        assert same(opt, *sums)
        assert found == row


@pytest.mark.parametrize("estimator", importance.ESTIMATORS)
def test_estimates_are_the_same_with_a_store(opt, store, swept, prompts, yaml, estimator):
    calibration = Evaluation(prompts, "calibration", yaml)
    expected = importance.estimate(estimator, opt, calibration, "heads")
    for _ in range(2):
        with store() as opened:
            found = importance.estimate(estimator, opt, calibration, "heads", store=opened)
        assert np.array_equal(found.contributions, expected.contributions)
        assert np.array_equal(found.weights, expected.weights)
        swept_then, swept[:] = list(swept), []
    assert not swept_then


def test_more_documents_compute_the_gradients_of_theirs(opt, store, swept):
    prompts = random_prompts(12)
    with store() as opened:
        importance.gradient(opt, prompts[:8], "heads", "token", opened)
        swept.clear()
        importance.gradient(opt, prompts, "heads", "example", opened)
    new = {prompt.key for prompt in prompts} - {prompt.key for prompt in prompts[:8]}
    assert swept and {prompt for prompt, _ in swept} == new


def test_stand_ins_are_told_apart_and_what_nothing_is_removed_from_is_not(
    opt, store, swept, prompts, yaml
):
    texts = random_prompts(4)
    with store() as opened:
        for kind, seed in (("zero", 0), ("mean", 0), ("mean", 1), ("resample", 0), ("resample", 1)):
            swept.clear()
            ablation = fit_ablation(opt, prompts, kind, seed, yaml)
            masks = Masks.removing(opt, REMOVALS[:2], ablation)
            evaluation_store.log_likelihoods(opt, texts, masks, opened)
            count = {("zero", 0): 2, ("mean", 1): 0}.get((kind, seed), 1)
            assert len(swept) == count * len({prompt.key for prompt in texts}), (kind, seed)


# --- kills, other processes, damage ---


def started(function, *arguments):
    """A process of its own: a forked one would have threads that are gone."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    return process


def test_a_killed_job_goes_on_from_its_last_part(checkpoint, tmp_path, swept):
    opt, prompts, masks, kept = _long_sweep(checkpoint, tmp_path)
    expected, _ = log_likelihoods(opt, prompts, masks)
    job = started(_killed_at, 2, checkpoint, tmp_path)
    job.join(600)
    assert job.exitcode == -signal.SIGKILL
    swept.clear()
    with kept as opened:
        found, _ = evaluation_store.log_likelihoods(opt, prompts, masks, opened)
    assert 0 < len(swept) < len({p.key for p in prompts}) * len(REMOVALS)
    assert same(opt, found, expected)


def _long_sweep(checkpoint, directory):
    """A sweep in many waves."""
    opt, prompts = model_loading.load(checkpoint, memory=0.05), random_prompts(60)
    store = evaluation_store.Store(directory, CONTEXT, lambda: opt)
    return opt, prompts, Masks.removing(opt, REMOVALS), store


def _killed_at(count, checkpoint, directory):
    """Sweep with a part after each wave, and be killed after some of them."""
    opt, prompts, masks, store = _long_sweep(checkpoint, directory)
    parts.SECONDS = 0
    write, written = parts.PartFiles.write, []

    def counted(self):
        write(self)
        written.append(self)
        if len(written) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    parts.PartFiles.write = counted
    with store:
        evaluation_store.log_likelihoods(opt, prompts, masks, store)


def test_processes_that_write_at_the_same_time_lose_nothing(opt, checkpoint, tmp_path, swept):
    prompts = random_prompts(4)
    removals = [([(layer, head)], []) for layer in range(3) for head in range(4)]
    jobs = [started(_one_by_one, checkpoint, tmp_path, removals[i::2]) for i in range(2)]
    for job in jobs:
        job.join(600)
        assert job.exitcode == 0
    with evaluation_store.Store(tmp_path, CONTEXT, no_model) as opened:
        masks = Masks.removing(opt, removals)
        found, _ = evaluation_store.log_likelihoods(opt, prompts, masks, opened)
        assert len(opened.parts["evaluations"].paths()) <= 2 * 3
    assert not swept
    assert same(opt, found, log_likelihoods(opt, prompts, masks)[0])


def _one_by_one(checkpoint, directory, removals):
    """Each mask in a store, hence a part, of its own; small ones are merged all the time."""
    parts.MANY = 2
    opt = model_loading.load(checkpoint)
    for removal in removals:
        with evaluation_store.Store(directory, CONTEXT, lambda: opt) as opened:
            masks = Masks.removing(opt, [removal])
            evaluation_store.log_likelihoods(opt, random_prompts(4), masks, opened)


def test_small_parts_become_one(opt, store, monkeypatch):
    monkeypatch.setattr(parts, "MANY", 3)
    prompts = random_prompts(4)
    for head in range(5):
        with store() as opened:
            masks = Masks.removing(opt, [([(0, head % 4)], [head // 4])])
            evaluation_store.log_likelihoods(opt, prompts, masks, opened)
    kept = opened.parts["evaluations"]
    assert len(kept.paths()) == 2  # four in one, and the last
    assert sum(table.num_rows for table in kept.tables()) == 5 * len({p.key for p in prompts})


def test_a_damaged_part_is_named_and_its_rows_are_swept_again(opt, store, swept, caplog):
    prompts = random_prompts(4)
    for removal in REMOVALS[:2]:
        with store() as opened:
            evaluation_store.log_likelihoods(opt, prompts, Masks.removing(opt, [removal]), opened)
    damaged = opened.parts["evaluations"].paths()[0]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    swept.clear()
    with store() as opened:
        evaluation_store.log_likelihoods(opt, prompts, Masks.removing(opt, REMOVALS[:2]), opened)
    assert len(swept) == len({prompt.key for prompt in prompts})
    assert str(damaged) in caplog.text


def test_a_job_that_fails_keeps_what_it_had(opt, store, swept, monkeypatch):
    prompts = random_prompts(4)
    with pytest.raises(RuntimeError, match="later"), store() as opened:
        evaluation_store.log_likelihoods(opt, prompts, Masks.removing(opt, REMOVALS), opened)
        raise RuntimeError("later")
    swept.clear()
    with store() as opened:
        evaluation_store.log_likelihoods(opt, prompts, Masks.removing(opt, REMOVALS), opened)
    assert not swept


def test_parts_are_artifacts_that_say_what_made_them(opt, store):
    with store() as opened:
        evaluation_store.log_likelihoods(
            opt, random_prompts(4), Masks.removing(opt, REMOVALS), opened
        )
    (path,) = opened.parts["evaluations"].paths()
    made = storage.provenance(path)["evaluations"]
    assert made["fingerprint"] == "weights" and made["code"]
    assert pl.read_parquet(path).schema["log_likelihood"] == pl.Float64
