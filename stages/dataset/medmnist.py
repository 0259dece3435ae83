"""MedMNIST archives (`.npz`): labels at once, images one by one, so that 13 GB of PathMNIST at 224 px need no memory.

An archive holds `<split>_images`, uint8 of shape (N, H, W) for grey or (N, H, W, 3) for colour, and `<split>_labels`,
integers of shape (N, 1), or (N, L) of 0 and 1 for a set with several labels an image (ChestMNIST), which becomes "finding"
where any of them is 1 and "no finding" where none is. `<split>` is train, val or test: MedMNIST's own split, handed on as
`official_split` and used by nobody, as some of them have images of one lesion on both sides (DermaMNIST); rarelens splits
by group itself.
"""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from stages.imaging.decode import Decoded
from stages.imaging.refining import Refined, Unread, refined
from stages.runtime.errors import UserError
from stages.runtime.files import sha256 as hash_file

OFFICIAL = ("train", "val", "test")
FINDING, NO_FINDING = "finding", "no finding"
MAX_SIDE = 1024  # px; MedMNIST has 28 to 224
MAX_ROWS = 1_000_000
MAX_LABELS = 100_000_000  # bytes; the largest set, TissueMNIST, has under 2 MB


def read_rows(path: str | Path) -> pd.DataFrame:
    """A row an image, in the order train, val, test: frame (from 0), label (the raw one, "0" or "finding"), official_split.

    Raises `UserError` for a file that is broken or no 2D MedMNIST archive. Of the images only the headers are read here.
    """
    parts = []
    with _opened(path) as archive:
        for split in OFFICIAL:
            with _member(archive, f"{split}_images") as (shape, _, _):
                count = shape[0]
            labels = _labels(archive, split)
            if len(labels) != count:
                raise UserError(f"{Path(path).name}: {split} has {count} images and {len(labels)} labels")
            parts.append(pd.DataFrame({"label": labels, "official_split": split}))
    rows = pd.concat(parts, ignore_index=True)
    rows.insert(0, "frame", np.arange(len(rows)))
    return rows


def read_images(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """The images in the order of `read_rows`, each (H, W) or (H, W, 3) uint8, 0 to 255; one in memory at a time.

    Raises `UserError` where the archive breaks off.
    """
    with _opened(path) as archive:
        for split in OFFICIAL:
            with _member(archive, f"{split}_images") as (shape, _, stream):
                size = int(np.prod(shape[1:]))
                for _ in range(shape[0]):
                    image = np.frombuffer(stream.read(size), np.uint8)
                    if len(image) < size:
                        raise UserError(f"{Path(path).name}: {split}_images breaks off; download the archive again")
                    yield image.reshape(shape[1:])


def refine_archive(raw: Path, size: int, file: str) -> Iterator[Refined | str]:
    """What `refine_file` is for other files: every image of an archive, or as the last item why it breaks off."""
    try:
        sha256, length = hash_file(raw / file), (raw / file).stat().st_size
        frames = len(read_rows(raw / file))
        for frame, pixels in enumerate(read_images(raw / file)):
            picture = Image.fromarray(pixels)
            yield refined(Decoded(picture.convert("RGB"), picture.mode, "NPZ", frame, frames), size, sha256, length)
    except UserError as error:
        yield Unread(error)  # the copy may be broken: whoever puts a whole one in its place finds it tried again


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`; whatever is wrong with its bytes becomes a `UserError`, which names the file without its folder."""
    name = Path(path).name
    if Path(path).exists() and not Path(path).is_file():  # a pipe would never end
        raise UserError(f"{name} is not a regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except KeyError as error:
        raise UserError(f"{name} is no MedMNIST archive: {error.args[0]}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{name} is broken or no .npz archive ({error or 'it ends too early'}); download it again") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # numpy reads an array's header as Python
        raise UserError(f"{name} is no MedMNIST archive: {' '.join(re.sub('<[^>]*>', '', str(error)).split())}") from None


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[tuple[int, ...], np.dtype[np.generic], IO[bytes]]]:
    """Shape and type of an array of the archive, and the stream of its bytes in C order. `ValueError` for one that MedMNIST has not."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = npy.read_magic(stream)
        if version != (1, 0):  # whose header cannot be long; that of others may claim gigabytes
            raise ValueError(f"{name} has the array format {version}")
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
        if shape and shape[0] > MAX_ROWS:
            raise ValueError(f"{name} has {shape[0]:,} rows; the largest set has 236,386")
        if fortran or dtype.hasobject:
            raise ValueError(f"{name} holds objects or lies in Fortran order")
        if name.endswith("images"):
            if len(shape) == 4 and shape[3] != 3:
                raise ValueError(f"{name} has shape {shape}, as of a 3D set; rarelens reads the 2D sets, (N, H, W) and (N, H, W, 3)")
            if dtype != np.uint8 or len(shape) not in (3, 4) or not 0 < min(shape[1:]) <= max(shape[1:]) <= MAX_SIDE:
                raise ValueError(f"{name} is {dtype} of shape {shape}, not uint8 of (N, H, W) or (N, H, W, 3)")
        elif dtype.kind not in "iu" or len(shape) != 2 or info.file_size > MAX_LABELS:
            raise ValueError(f"{name} is {dtype} of shape {shape}, not integers of (N, 1) or (N, labels)")
        if info.file_size != stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize:
            raise ValueError(f"{name} says that it has shape {shape}, and holds {info.file_size} bytes")
        yield shape, dtype, stream


def _labels(archive: zipfile.ZipFile, split: str) -> list[str]:
    """The raw labels of a split as text."""
    with _member(archive, f"{split}_labels") as (shape, dtype, stream):
        values = np.frombuffer(stream.read(), dtype).reshape(shape)
    if shape[1] == 1:
        return [str(value) for value in values[:, 0].tolist()]
    return [FINDING if any_label else NO_FINDING for any_label in (values != 0).any(axis=1)]
