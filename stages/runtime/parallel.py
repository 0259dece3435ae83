"""Several pieces of work at once on a CPU: forked processes of one thread each, which small networks use better than one process of many threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from stages.runtime.errors import UserError
from stages.runtime.progress import progress_bar

Job = TypeVar("Job")
Result = TypeVar("Result")
Tick = Callable[[int], object]  # hears of so many units done

_DONE, _RESULT, _ERROR = range(3)


def _end_with(parent: int) -> None:
    """End this process when `parent` is gone: killed from outside, it cannot end its children, and they would go on for hours."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _child(function: Callable[[Any, Tick], Any], job: Any, pipe: Connection, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        pipe.send((_RESULT, function(job, lambda n: pipe.send((_DONE, n)))))
    except Exception as error:
        pipe.send((_ERROR, error))


def each(function: Callable[[Job, Tick], Result], jobs: Sequence[Job], threads: int, what: str, unit: str, total: int) -> list[Result]:
    """`[function(job, tick) for job in jobs]`, `threads` jobs at a time, under a bar of `total` `unit`s that `tick(n)` moves on.

    On a CPU a job has one thread whatever `threads` is, so results do not hang on it; on a GPU the jobs run one after the
    other in this process. Results travel by pickle; `function` and what it holds do not. The first error is raised here,
    `UserError` when a process was killed; the other processes then end too.
    """
    with progress_bar(what, unit, total) as bar:
        if torch.cuda.is_available():
            return [function(job, bar.update) for job in jobs]
        fork = multiprocessing.get_context("fork")
        found: dict[int, Result] = {}
        waiting = list(range(len(jobs)))
        running: dict[Connection, tuple[int, Any]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < max(threads, 1):
                    number = waiting.pop(0)
                    mine, its = fork.Pipe(duplex=False)
                    process = fork.Process(target=_child, args=(function, jobs[number], its, os.getpid()), daemon=True)
                    process.start()
                    its.close()  # so that the end of the process is the end of the pipe
                    running[mine] = (number, process)
                ready = wait(list(running))
                for pipe in [own for own in running if own in ready]:
                    number, process = running[pipe]
                    value: Any
                    try:
                        kind, value = pipe.recv()
                    except EOFError:
                        process.join()
                        raise UserError(f"{what}: a process was ended from outside (status {process.exitcode}); is there enough memory?") from None
                    if kind == _ERROR:
                        raise value
                    if kind == _DONE:
                        bar.update(value)
                        continue
                    found[number] = value
                    process.join()
                    del running[pipe]
        finally:
            for _, process in running.values():
                process.kill()
                process.join()
    return [found[k] for k in range(len(jobs))]
