"""The box of a lesion from its mask. Imports little: workers load it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.imaging.decode import Refused, decode

Box = tuple[int, int, int, int]


def box(data: bytes) -> Box:
    """First and one past the last column and row (x0, y0, x1, y1), in px, of the white of a mask's bytes. Raises `Refused` when there is none."""
    white = np.asarray(decode(data).picture.convert("L")) > 127
    across, down = np.flatnonzero(white.any(0)), np.flatnonzero(white.any(1))
    if not across.size:
        raise Refused("no white pixel")
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def box_or_reason(folder: Path, file: str) -> Iterator[Box | str]:
    """`box` of a file in `folder`, or why it has none; one item. Runs in a worker."""
    try:
        yield box((folder / file).read_bytes()) if (folder / file).is_file() else "no regular file"  # a pipe would never end
    except Refused as reason:
        yield str(reason)
    except OSError as error:
        yield f"cannot be opened: {error.strerror}"
