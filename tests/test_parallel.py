"""Work in forked processes: in order, with one thread each, errors and lost processes heard of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.runtime.errors import UserError
from stages.runtime.parallel import Tick, each


def test_results_come_in_the_order_of_the_jobs_from_other_processes_of_one_thread() -> None:
    offset = 10  # held by the closure, which is not pickled
    found = each(lambda job, tick: (tick(1), job + offset, torch.get_num_threads(), os.getpid())[1:], range(5), 2, "work", "job", 5)
    assert [f[0] for f in found] == [10, 11, 12, 13, 14]
    assert {f[1] for f in found} == {1}
    assert os.getpid() not in {f[2] for f in found}


def test_a_result_is_the_same_bytes_whatever_the_number_of_processes() -> None:
    def work(seed: int, tick: Tick) -> bytes:
        x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.conv2d(x, x[:8]).sum((2, 3)).numpy().tobytes()

    assert each(work, [1, 2, 3], 1, "work", "job", 3) == each(work, [1, 2, 3], 3, "work", "job", 3)


def test_an_error_in_a_job_is_raised_as_it_is() -> None:
    def fail(job: int, tick: Tick) -> int:
        if job == 1:
            raise UserError("image 1 is bad")
        return job

    with pytest.raises(UserError, match="image 1 is bad"):
        each(fail, range(20), 2, "work", "job", 20)


def test_a_killed_process_is_an_error_not_a_hang() -> None:
    with pytest.raises(UserError, match="work: a process was ended from outside"):
        each(lambda job, tick: os.kill(os.getpid(), signal.SIGKILL), [1, 2], 2, "work", "job", 2)


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from stages.runtime.parallel import each
def work(job, tick):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(120)
each(work, [1, 2], 2, "work", "job", 2)
"""
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(Path("/proc", child.name).exists() for child in tmp_path.iterdir()))


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it; fail when it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
