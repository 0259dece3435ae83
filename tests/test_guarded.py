"""Guarded work: what hangs, crashes or eats memory costs its own task, and the answers hang on nothing but the tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from stages.runtime.guarded import Done, Failed, Limits, guarded
from tests.hostile import misbehave

LIMITS = Limits(seconds=1.5, memory_mb=300)
CRASHED = "crashed the image decoder (SIGSEGV)"
ANSWERS = {
    "hang": "took longer than 1.5 s to open",
    "crash": CRASHED,
    "half": CRASHED,
    "eat": "needs more than 300 MB to open",
    "exit": "crashed the image decoder",
}


def outcomes(tasks: Iterable[str], processes: int) -> dict[str, str]:
    """How each task ended: done, or the reason."""
    found: dict[str, str] = {}
    for task, answer in guarded(misbehave, tasks, LIMITS, processes):
        if isinstance(answer, (Done, Failed)):
            assert task not in found
            found[task] = answer.reason if isinstance(answer, Failed) else "done"
    return found


@pytest.mark.parametrize("processes", [1, 3])
def test_a_hostile_task_costs_itself_and_no_other(processes: int) -> None:
    tasks = ["a", "hang", "b", "crash", "c", "half", "eat", "d", "exit", "e"]
    assert outcomes(tasks, processes) == {task: ANSWERS.get(task, "done") for task in tasks}


def test_memory_that_others_have_leaked_is_not_held_against_a_task() -> None:
    assert set(outcomes(["leak"] + [f"{k}" for k in range(3)], 1).values()) == {"done"}
    done = [answer for _, answer in guarded(misbehave, ["leak", "leak", "leak"], LIMITS) if isinstance(answer, (Done, Failed))]
    assert all(isinstance(answer, Done) for answer in done) and len(done) == 3


def test_time_is_each_value_s_own() -> None:
    """A film of a thousand frames takes longer than one picture may."""
    assert outcomes(["many", "hang", "a"], 1) == {"many": "done", "hang": ANSWERS["hang"], "a": "done"}


def test_every_value_of_a_task_comes_before_its_end() -> None:
    assert [answer for _, answer in guarded(misbehave, ["x"], LIMITS)][:2] == ["x", "x"]
    assert list(guarded(misbehave, [], LIMITS)) == []


def test_what_a_library_prints_is_kept_from_the_terminal_and_can_be_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    said = next(answer for _, answer in guarded(misbehave, ["print"], LIMITS))
    assert isinstance(said, str) and said.startswith("C says so\n") and 1000 < len(said) <= 1 << 16
    told = capfd.readouterr().err
    assert "Python says so" in told and "C says so" not in told


def test_tasks_are_drawn_as_they_are_needed() -> None:
    drawn = []

    def endless() -> Iterator[str]:
        while True:
            drawn.append("x")
            yield "x"

    for count, _ in enumerate(guarded(misbehave, endless(), LIMITS, 2)):
        if count > 30:
            break
    assert len(drawn) < 30


def test_no_process_is_left_when_the_work_is_given_up() -> None:
    work = guarded(misbehave, ["process", "hang", "hang"], LIMITS)
    process = next(answer for _, answer in work)
    assert isinstance(process, str) and Path(f"/proc/{process}").exists()
    work.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{process}").exists()


def test_the_time_for_which_a_caller_keeps_an_answer_is_not_the_tasks() -> None:
    found = []
    for _, answer in guarded(misbehave, ["a", "b"], Limits(0.5, 300)):
        time.sleep(0.6)
        found.append(answer)
    assert not any(isinstance(answer, Failed) for answer in found) and len(found) == 6


def test_a_worker_that_cannot_start_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.path", [os.devnull])
    with pytest.raises(RuntimeError, match="before its first task"):
        list(guarded(misbehave, ["a"], LIMITS))
    assert "stages" in capfd.readouterr().err
