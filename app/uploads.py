"""What is taken from outside, and how much of it at once; a file is read in memory, in a process of its own, and never stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import BoundedSemaphore

from stages.classifier.reading import Seen, read_guarded
from stages.imaging.decode import Refused

MAX_FILES = 8  # views of one case
MAX_BYTES = 50 * 2**20  # of a file, and of a request to the API; .streamlit/config.toml has the same. Pixels: stages/imaging/decode.py
MAX_CASE_BYTES = 2 * MAX_BYTES  # of all views of a case
#: A reader may hold 900 MiB: twenty sessions at once wait for each other, instead of eating the machine's memory.
TURNS = max(2, os.cpu_count() or 1)
_turns = BoundedSemaphore(TURNS)


def too_much(sizes: Sequence[int]) -> str:
    """Why files of these `sizes` in bytes are not taken as one case; "" when they are."""
    if len(sizes) > MAX_FILES:
        return f"{len(sizes)} files at once; at most {MAX_FILES} views of one lesion."
    if sum(sizes) > MAX_CASE_BYTES:
        return f"{sum(sizes) / 2**20:,.0f} MB at once; at most {MAX_CASE_BYTES // 2**20} MB for all views of one lesion."
    return ""


def first_of(frames: int) -> str:
    """That a file of several `frames` was read in part; "" of one frame."""
    return f"only the first of {frames:,} frames is read" if frames > 1 else ""


def read(data: bytes, *sizes: int) -> Seen:
    """`reading.read_guarded`, a few at a time; raises `Refused` for more than MAX_BYTES too."""
    if len(data) > MAX_BYTES:
        raise Refused(f"over {MAX_BYTES // 2**20} MB")
    with _turns:
        return read_guarded(data, *sizes)
