"""What of odd files the product refines, beside what a library decodes without help."""

from __future__ import annotations

import time
from collections.abc import Callable

from stages.imaging.decode import Refused, decode

SMALL = 100_000  # bytes; larger files are read by name in other tests, and all of them in `make bench`


def outcomes(files: dict[str, bytes], plainly: Callable[[bytes], object]) -> tuple[int, list[str]]:
    """Of the small `files` that `plainly` decodes: how many are refined, and which are refused."""
    refined, refused = 0, []
    for name, data in sorted(files.items()):
        if len(data) > SMALL:
            continue
        try:
            plainly(data)
        except Exception:
            continue
        start = time.perf_counter()
        try:
            decode(data)
            refined += 1
        except Refused as reason:
            refused.append(f"{name}: {reason}")
        assert time.perf_counter() - start < 10, name
    return refined, refused
