"""Progress bars: long work shows its rate and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import NoReturn, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, unit: str = "it", total: int | None = None) -> Iterator[T]:
    """Yield `items` (`total` of them, where they have no length) while a bar on stderr shows `what`, the rate in `unit`/s and the time left.

    Where stderr is not a terminal (a log file, CI) a line is written at most every ten seconds.
    """
    with progress_bar(what, unit, len(items) if isinstance(items, Sized) else total) as bar:
        for item in items:
            yield item
            bar.update()


def progress_bar(what: str, unit: str = "it", total: int | None = None, done: int = 0) -> tqdm[NoReturn]:
    """The bar of `progress` to `update()` by hand, for work of which `done` was done before; a context manager."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(desc=what, unit=f" {unit}", total=total, initial=done, mininterval=interval, dynamic_ncols=True)
