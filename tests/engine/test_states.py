"""States between layers: in memory, and beyond that in a file that is never left behind."""

import errno
import os
import subprocess
import sys
import tempfile

import pytest
import torch

from headcount.engine.states import States

HELD = """
import time, torch
from headcount.engine.states import States
with States(capacity=0) as states:
    states.put("key", torch.ones(2**20))
    print("held", flush=True)
    time.sleep(600)
"""


def test_those_that_do_not_fit_lie_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with States(capacity=100) as states:
        tensors = [torch.randn(2, 5, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)] * 2
        for key, tensor in enumerate(tensors):
            states.put(key, tensor)
        assert states.used == 100 and states.file.end == 20
        assert not list(tmp_path.iterdir())
        for key, tensor in enumerate(tensors):
            assert torch.equal(states.get(key), tensor)


def test_room_of_states_that_were_dropped_is_used_again():
    with States(capacity=0) as states:
        for layer in range(5):
            for key in range(3):
                states.put((layer, key), torch.full((2, 4 + key), float(layer)))
            for key in range(3):
                assert torch.equal(states.get((layer, key)), torch.full((2, 4 + key), float(layer)))
                states.drop((layer, key))
        assert states.file.end == 8 * (4 + 5 + 6)


def test_a_write_that_the_system_takes_in_pieces_is_whole(monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:7], at))
    tensor = torch.randn(2, 5)
    with States(capacity=0) as states:
        states.put("key", tensor)
        assert torch.equal(states.get("key"), tensor)


def test_a_full_temporary_directory_is_named_with_what_to_do(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with States(capacity=0) as states, pytest.raises(OSError, match=r"TMPDIR.*`memory`") as caught:
        states.put("key", torch.randn(2, 5))
    assert tempfile.gettempdir() in str(caught.value)


def test_nothing_is_left_by_a_process_that_is_killed(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", HELD], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=-1
    )
    assert job.stdout.readline() == b"held\n"
    job.kill()
    job.wait()
    assert not list(tmp_path.iterdir())
