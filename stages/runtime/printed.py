"""What C libraries print (libtiff at every odd tag): kept from the terminal, where it would run through the progress bar, and told of a refused file.

For processes of one thread that open files for others (`stages.runtime.worker`): the descriptor is the whole process's.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_caught: int | None = None  # descriptor to read from


def catch() -> None:
    """From now on what code other than Python's writes to standard error waits for `printed`. What Python writes goes where it went.

    Of what nobody asks for 64 KB are kept, a pipe's room; the rest is dropped, so that no library ever waits.
    """
    global _caught
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    _caught, theirs = os.pipe()
    os.set_blocking(_caught, False)
    os.set_blocking(theirs, False)
    os.dup2(theirs, 2)
    os.close(theirs)


def printed() -> str:
    """What was caught since the last call; nothing where `catch` was not called."""
    parts: list[bytes] = []
    if _caught is not None:
        with suppress(BlockingIOError):  # at its end
            while part := os.read(_caught, 1 << 16):
                parts.append(part)
    return b"".join(parts).decode(errors="replace")
