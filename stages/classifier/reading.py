"""From a file that nobody trusts to what the model sees; shared by `stages.predict` and the page. Imports little: workers load it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.imaging.decode import Refused, Unusable, decode, square
from stages.imaging.watermark import is_marked
from stages.runtime.guarded import Failed, Limits, guarded

MIN_SIDE = 28  # px of the original: MedMNIST's size
MAX_ASPECT = 2.0  # of a longer picture the model, which sees the middle square, would miss more than half
LIMITS = Limits(seconds=8, memory_mb=900)  # of one file; a model folder carries no params.yaml


class Seen(NamedTuple):
    """An image file as it was read: the middle square of its first frame at each size asked for, (size, size, 3) uint8, and how many frames it holds."""

    views: list[NDArray[np.uint8]]
    frames: int


def read(data: bytes, size: int) -> NDArray[np.uint8]:
    """The bytes of an image file as the model sees it, (size, size, 3) uint8.

    Raises `Refused` when the bytes are no image that can be read, and its kind `Unusable` when they are one but show too little.
    """
    return _see(data, size).views[0]


def _see(data: bytes, *sizes: int) -> Seen:
    if is_marked(data):
        raise Unusable("marked as AI-generated: it shows no patient")
    decoded = decode(data)
    if min(decoded.width, decoded.height) < MIN_SIDE:
        raise Unusable(f"{decoded.width} x {decoded.height} px is too small for the model to speak on (at least {MIN_SIDE} px a side)")
    if max(decoded.width, decoded.height) > MAX_ASPECT * min(decoded.width, decoded.height):
        raise Unusable(
            f"{decoded.width} x {decoded.height} px: the model sees the middle square alone, less than half of this; crop it to the lesion"
        )
    views = [np.array(square(decoded.picture, size)) for size in sizes]
    if (views[0] == views[0][:1, :1]).all():
        raise Unusable("blank: the middle square has one colour")
    return Seen(views, decoded.frames)


def seen_or_reason(sizes: tuple[int, ...], data: bytes) -> Iterator[Seen | Refused]:
    """What is seen of an image file's bytes at `sizes` px, or why it cannot be read; one item. Runs in a worker."""
    try:
        yield _see(data, *sizes)
    except Refused as reason:
        yield reason


def pixels_or_reason(size: int, path: Path) -> Iterator[NDArray[np.uint8] | Refused]:
    """`read` of the file at `path`, or why it cannot be read; one item. Runs in a worker."""
    try:
        if not path.is_file():  # a pipe would never end, a dangling link never begins
            yield Refused("a folder that cannot be looked into, or a link to one" if path.is_dir() else "not a regular file")
        else:
            yield read(path.read_bytes(), size)
    except Refused as reason:
        yield reason
    except OSError as error:
        yield Refused(f"cannot be opened: {error.strerror}")


def read_guarded(data: bytes, *sizes: int) -> Seen:
    """What is seen of an image file's bytes at `sizes` px (the model's own first), opened in a process of its own.

    Raises as `read` does, and `Refused` when the file hangs, crashes or eats memory.
    """
    _, answer = next(guarded(partial(seen_or_reason, sizes), [data], LIMITS))
    if isinstance(answer, Seen):
        return answer
    raise answer if isinstance(answer, Refused) else Refused(getattr(answer, "reason", "gave no picture"))


def read_files(files: Iterable[Path], size: int, processes: int) -> Iterator[tuple[Path, NDArray[np.uint8] | Refused]]:
    """`read` of each file, or why it cannot be read, in order; each in a process that it may take down with it."""
    files = list(files)
    arrived: dict[Path, NDArray[np.uint8] | Refused] = {}
    given = 0
    for path, answer in guarded(partial(pixels_or_reason, size), files, LIMITS, processes):
        if isinstance(answer, Failed):
            arrived[path] = Refused(answer.reason)
        elif isinstance(answer, (np.ndarray, Refused)):
            arrived[path] = answer
        while given < len(files) and files[given] in arrived:
            yield files[given], arrived.pop(files[given])
            given += 1
