"""The other end of `stages.runtime.guarded`: a process that works through the tasks it is sent, under limits that the kernel enforces.

    python -m stages.runtime.worker DESCRIPTOR

It imports nothing but what the function it is sent needs, and ends when its parent does. Its parent watches the time. Memory is limited
by RLIMIT_DATA: it counts what the process writes to, heap and buffers, and not, as RLIMIT_AS does, the address space that libraries and
threads only reserve. What C libraries print is caught (`stages.runtime.printed`).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection

from stages.runtime.printed import catch

OUT_OF_MEMORY = 77  # exit status
AT_ONCE = 0.5  # seconds


def serve(connection: Connection) -> None:
    """Answer each task with its values, as pairs of a list and whether the task has ended: a value that came at once is held back until the
    next one is there, so that a task of one value costs one message; of others the parent is told, for it watches the time of each."""
    function, limits = connection.recv()
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_mb << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    catch()
    connection.send("ready")
    while True:
        task = connection.recv()
        held: list[object] = []
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, 10 * limits.seconds)  # ends an endless loop when the parent is no longer there to do it
        for value in function(task):
            held.append(value)
            now = time.monotonic()
            if len(held) > 1 or now - began > AT_ONCE:
                connection.send((held, False))
                held = []
            began = now
            signal.setitimer(signal.ITIMER_PROF, 10 * limits.seconds)
        connection.send((held, True))


def main() -> None:
    """Serve until the parent closes its end or is gone."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        serve(Connection(int(sys.argv[1])))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # at once: with no memory left a tidy end may fail, too
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
