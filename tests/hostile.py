"""What a file may do to the process that opens it; imported by the workers of tests/test_guarded.py and tests/test_refine.py."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any




def misbehave(what: str) -> Iterator[str]:
    """Hang, crash, eat memory, or give back what was said, twice."""
    if what == "hang":
        ctypes.CDLL(None).pause()  # C code: no handler of Python's runs
    if what == "crash":
        ctypes.string_at(0)
    if what == "eat":
        _ = [bytearray(64 << 20) for _ in range(100)]
    if what == "leak":
        leaked.append(bytearray(150 << 20))
    if what == "exit":
        os._exit(3)
    if what == "process":
        yield str(os.getpid())
    if what == "half":
        yield "half"
        ctypes.string_at(0)
    yield from (what, what)


leaked: list[bytearray] = []
