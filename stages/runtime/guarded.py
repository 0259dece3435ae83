"""Work on files that nobody trusts, in processes that may hang, crash or eat memory without harm to anything but the one file.

Why not a pool from a library (concurrent.futures, loky, pebble): their workers are started by `multiprocessing`, which imports the
parent's main script into each (torch for `stages.predict`, the whole page under Streamlit), and a limit on time or a lost process
costs a whole batch of tasks or the pool. Here a worker is a bare interpreter that imports one function.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Pipe
from pathlib import Path
from selectors import EVENT_READ, BaseSelector, DefaultSelector
from typing import Final, Generic, NamedTuple, TypeVar

from stages.runtime.worker import OUT_OF_MEMORY

T = TypeVar("T")
R = TypeVar("R")
WATCH = 0.25  # seconds between two looks at how long the tasks have taken
AHEAD = 4  # tasks a worker has been sent, so that it never waits for its parent


class Limits(NamedTuple):
    """What one task may use: seconds of wall clock for each of its values, less the time for which the machine kept its process waiting for a
    processor (so that a busy machine gives the same answers), and MiB that its process holds (its interpreter and libraries, about 60, are in it)."""

    seconds: float
    memory_mb: int


class Failed(NamedTuple):
    """Why a task was given up, in words for the owner of the file, and which of the `Limits` it met, if one."""

    reason: str
    limit: str = ""


class Done:
    """A task has ended well, and all its values have come."""


DONE: Final = Done()


class _Worker(Generic[T]):
    """A process, and the tasks it was sent and has not finished, the present one first."""

    def __init__(self, function: Callable[[T], Iterable[R]], limits: Limits, tasks: Iterable[T]) -> None:
        self.limits = limits
        self.tasks: deque[T] = deque()
        self.fresh = True  # has finished no task yet
        self.late = False  # was ended because its task took too long
        self.watched: tuple[float, float] | None = None  # the clock when the work on the present value was first seen, and `_queued` then
        self.connection, theirs = Pipe()
        # One thread each: the work is spread over processes, and every further thread of OpenBLAS reserves memory.
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "stages.runtime.worker", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)
        theirs.close()
        self.connection.send((function, limits))
        for task in tasks:
            self.send(task)

    def send(self, task: T) -> None:
        self.tasks.append(task)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died, which the next `receive` tells
            self.connection.send(task)

    def wait_until_ready(self) -> None:
        try:
            self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError("a worker ended before its first task; its own message stands above") from None

    def receive(self) -> list[R | Failed | Done]:
        """Values of the present task, with `DONE` after its last, or why the process has died."""
        try:
            values, ended = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return [self._cause(self.process.wait())]
        self.watched = None
        return [*values, DONE] if ended else list(values)

    def watch(self, clock: float) -> None:
        """End the process when its present task has been at work on a value for too long; called again and again, with seconds on a clock."""
        queued = self._queued()
        if self.watched is None:
            self.watched = clock, queued
        elif clock - self.watched[0] - (queued - self.watched[1]) > self.limits.seconds:
            self.late = True
            self.process.kill()

    def _queued(self) -> float:
        """Seconds for which the process was ready to run and had no processor; 0 where the kernel does not say."""
        try:
            return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def _cause(self, status: int) -> Failed:
        if self.late:
            return Failed(f"took longer than {self.limits.seconds:g} s to open", "seconds")
        if status == OUT_OF_MEMORY:
            return Failed(f"needs more than {self.limits.memory_mb} MB to open", "memory_mb")
        return Failed("crashed the image decoder" + (f" ({signal.Signals(-status).name})" if status < 0 else ""))

    @property
    def at_fault(self) -> bool:
        """Whether the present task alone can have ended the process: memory may be short, or spoilt, from the tasks before it."""
        return self.fresh or self.late

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def guarded(function: Callable[[T], Iterable[R]], tasks: Iterable[T], limits: Limits, processes: int = 1) -> Iterator[tuple[T, R | Failed | Done]]:
    """Do `function(task)` for every task in `processes` workers; yields, as they come, a task with each of its values and then with `DONE`,
    or with `Failed` when the task went over `limits` or took its process down.

    `function` lives in an importable module (a `partial` of one does, too); what it takes and gives is pickled, and tasks are small (paths):
    some are sent ahead. The order hangs on timing, the answers do not: a crash or a want of memory in a worker that has done other tasks
    is tried again in a fresh one, so that values may come again, and those of a task that ends `Failed` are void.
    Raises `RuntimeError` when a worker cannot start.
    """
    waiting = iter(tasks)
    arrivals = DefaultSelector()  # multiprocessing.connection.wait would make one for each task
    workers = [_Worker(function, limits, [task]) for task in islice(waiting, processes)]
    try:
        for worker in workers:
            worker.wait_until_ready()
            arrivals.register(worker.connection, EVENT_READ, worker)
        for worker in workers * (AHEAD - 1):
            for task in islice(waiting, 1):
                worker.send(task)
        looked, clock = time.monotonic(), 0.0
        while workers:
            for worker in [key.data for key, _ in arrivals.select(WATCH)]:
                task, answers = worker.tasks[0], worker.receive()
                last = answers[-1]
                if isinstance(last, Failed) and not worker.at_fault:
                    _replace(workers, worker, function, arrivals)
                    continue
                if isinstance(last, (Done, Failed)):
                    worker.tasks.popleft()
                    for following in islice(waiting, 1):
                        worker.send(following)
                    worker.fresh = False
                    if isinstance(last, Failed) or not worker.tasks:
                        _replace(workers, worker, function, arrivals)
                for answer in answers:
                    yield task, answer
            passed = time.monotonic() - looked
            if passed > WATCH:
                looked += passed
                clock += min(passed, 2 * WATCH)  # not the time for which this process was away with an answer: a worker may have waited for it
                for worker in workers:
                    worker.watch(clock)
    finally:
        arrivals.close()
        for worker in workers:
            worker.end()


def _replace(workers: list[_Worker[T]], lost: _Worker[T], function: Callable[[T], Iterable[R]], arrivals: BaseSelector) -> None:
    """A fresh process in the place of `lost` for the tasks that it has left, or none where nothing is left to do."""
    arrivals.unregister(lost.connection)
    lost.end()
    place = workers.index(lost)
    workers[place : place + 1] = [_Worker(function, lost.limits, lost.tasks)] if lost.tasks else []
    if lost.tasks:
        workers[place].wait_until_ready()
        arrivals.register(workers[place].connection, EVENT_READ, workers[place])
