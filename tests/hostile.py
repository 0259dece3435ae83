"""What a file may do to the process that opens it; imported by the workers of tests/test_guarded.py and tests/test_refine.py."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.classifier.reading import pixels_or_reason
from stages.imaging.decode import Refused
from stages.imaging.refining import Refined, refine_file
from stages.runtime.printed import printed

leaked: list[bytearray] = []


def misbehave(what: str) -> Iterator[str]:
    """Hang, crash, eat memory, or give back what was said, twice."""
    if what == "hang":
        ctypes.PyDLL(None).pause()  # C code that never ends and keeps Python's lock: no handler and no thread of Python's runs
    if what == "crash":
        ctypes.string_at(0)
    if what == "eat":
        _ = [bytearray(64 << 20) for _ in range(100)]
    if what == "leak":
        leaked.append(bytearray(150 << 20))
    if what == "exit":
        os._exit(3)
    if what == "print":
        for _ in range(10_000):
            ctypes.CDLL(None).write(2, b"C says so\n", 10)
        print("Python says so", file=sys.stderr)
        yield printed()
    if what == "many":  # values, each within the limit and all together over it
        for _ in range(4):
            time.sleep(0.6)
            yield what
    if what == "process":
        yield str(os.getpid())
    if what == "half":
        yield "half"
        ctypes.string_at(0)
    yield from (what, what)


def refine_hostile(raw: Path, size: int, frames: Literal["first", "middle", "all"], file: str) -> Iterator[Refined | str]:
    """`refine_file`, but for files named hang, crash or eat, which do so. Every file opened is noted in the file that the environment names."""
    if "OPENED" in os.environ:
        with open(os.environ["OPENED"], "a") as log:
            log.write(file + "\n")
    for _ in misbehave(Path(file).stem):
        yield from refine_file(raw, size, frames, file)
        return


def crashing_reader(size: int, path: Path) -> Iterator[NDArray[np.uint8] | Refused]:
    """`pixels_or_reason`, which a file named crash takes down."""
    if path.stem == "crash":
        ctypes.string_at(0)
    yield from pixels_or_reason(size, path)
