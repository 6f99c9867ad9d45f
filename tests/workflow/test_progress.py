"""Long computations say how far they are: all of the work is counted, and short ones are silent."""

import logging

import pytest
from plain import random_prompts, within

from headcount import progress
from headcount.engine import Masks, log_likelihoods
from headcount.scores import importance, induction
from headcount.verification import verdict

REMOVALS = [([], []), ([(0, 1)], []), ([], [1])]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass at each look at the clock."""
    passing, now = [0.0], [0.0]

    def monotonic():
        now[0] += passing[0]
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", monotonic)
    return passing


@pytest.fixture
def counted(monkeypatch):
    """Every count of work."""
    made = []
    original = progress.Progress.__init__

    def init(self, *arguments):
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(progress.Progress, "__init__", init)
    return made


def test_a_line_now_and_then_says_how_many_how_fast_and_how_long(clock, caplog):
    caplog.set_level(logging.INFO, logger="headcount.progress")
    clock[0] = 4  # seconds a step: a line at every third
    counting = progress.Progress("masks x prompts", 1200, "evaluation")
    for _ in range(6):
        counting.advance(100)
    assert [record.message for record in caplog.records] == [
        "masks x prompts: 300 of 1200 (25 %), 25.00 evaluation/s, 00:36 left",
        "masks x prompts: 600 of 1200 (50 %), 25.00 evaluation/s, 00:24 left",
    ]


def test_what_is_short_says_nothing(opt, caplog):
    caplog.set_level(logging.INFO, logger="headcount.progress")
    log_likelihoods(opt, random_prompts(8), Masks.removing(opt, REMOVALS))
    assert not [record for record in caplog.records if record.name == "headcount.progress"]


@pytest.mark.parametrize("memory", [0.02, 1000])
def test_a_sweep_and_gradients_count_all_that_they_do(opt, counted, memory):
    prompts = random_prompts(8)
    within(memory, log_likelihoods, opt, prompts, Masks.removing(opt, REMOVALS))
    for component in ("heads", "ffns"):
        within(memory, importance.gradient, opt, prompts, component, "token")
    distinct = len({prompt.key for prompt in prompts})  # gradients are computed once of each
    totals = [counting.total for counting in counted]
    assert totals == [len(REMOVALS) * len(prompts), distinct, distinct]
    for counting in counted:
        assert counting.done == pytest.approx(counting.total)


def test_induction_and_verification_count_all_that_they_do(opt, counted):
    induction.prefix_matching(opt, 3, seed=0)
    induction.copying(opt, 2, seed=0)
    assert [(counting.done, counting.total) for counting in counted] == [(3, 3), (2, 2)]
    counted.clear()
    verdict.verify(opt)
    assert {counting.what for counting in counted} >= {"the unmodified model", "masks x prompts"}
    for counting in counted:
        assert counting.done == pytest.approx(counting.total)
