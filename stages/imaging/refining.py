"""One raw file as refined images with their facts and fingerprints: what a worker of `stages.refine` does."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.imaging.decode import Decoded, Refused, decode_frames, square
from stages.imaging.watermark import is_marked
from stages.runtime.names import on_disk

MAX_FILE_BYTES = 500_000_000
THUMB = 32  # px
RECODE_QUALITY = 75  # JPEG, to measure how much there is to compress
MAX_JPEG_SIDE = 65_500  # px
LOW = 8  # frequencies a side that make a hash
#: The DCT-II of `THUMB` values, its lowest frequencies, as a matrix: scipy.fft takes longer to load than a hundred images take.
COSINES = 2 * np.cos(np.pi * np.outer(np.arange(LOW), 2 * np.arange(THUMB) + 1) / (2 * THUMB))
#: The eight orientations in the order of `dihedral`: whether rows and columns change places, and then whether rows, and columns, are reversed.
ORIENTATIONS = ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0))
_INDEX, _ODD = np.arange(LOW * LOW).reshape(LOW, LOW), (-1.0) ** np.arange(LOW)  # a reversal changes the sign of the odd frequencies
TURNED = np.stack([(_INDEX.T if swapped else _INDEX).ravel() for swapped, _, _ in ORIENTATIONS])
SIGNS = np.stack([np.outer(_ODD**rows, _ODD**columns).ravel() for _, rows, columns in ORIENTATIONS])


class Unread(str):
    """Why a file could not be read that may be sound: the disk's or the network's fault, or a missing permission. It is tried again."""

    __slots__ = ()


class Refined(NamedTuple):
    """One frame, of `frames` in the file, after decoding: `image` as PNG bytes, facts of the file, and what finds its duplicates.

    `recoded_bytes`: how long the whole picture's luminance is as JPEG at one quality, by which the data report tells how much of
    `file_bytes` is due to what is shown. `sha256` is the file's, `pixels` a hash of the upright picture's size and RGB values before it is made smaller;
    `unusable` says why it shows too little (`Decoded.unusable`); for `hashes` (8,) and `thumb` (32, 32) see `fingerprint`; as little-endian
    bytes they cost less to send.
    """

    frame: int
    frames: int
    image: bytes
    sha256: str
    width: int
    height: int
    mode: str
    format: str
    file_bytes: int
    recoded_bytes: int
    burned_in_text: bool
    unusable: str
    pixels: str
    hashes: bytes
    thumb: bytes


def refine_file(raw: Path, size: int, frames: Literal["first", "middle", "all"], file: str) -> Iterator[Refined | str]:
    """Decode, crop and resize the frames of one file. A string is the reason why the file cannot be used; it is then the last item."""
    try:
        path = on_disk(raw, file)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            yield "a link to a folder, or no regular file"
            return
        if status.st_size > MAX_FILE_BYTES:
            yield f"file over {MAX_FILE_BYTES:,} bytes"
            return
        data = path.read_bytes()
    except OSError as error:
        yield Unread(f"cannot be read: {error.strerror}")
        return
    if is_marked(data):
        yield "marked as AI-generated (XMP DigitalSourceType): only real images are learned from and tested on"
        return
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        for decoded in decode_frames(data, frames):
            yield refined(decoded, size, sha256, len(data))
    except Refused as reason:
        yield str(reason)


def refined(decoded: Decoded, size: int, sha256: str, file_bytes: int) -> Refined:
    """A decoded frame at `size` px, of a file with this hash and length."""
    pixels = hashlib.sha256(f"{decoded.width} {decoded.height} ".encode())
    pixels.update(decoded.picture.tobytes())  # first, for it takes the most memory
    grey = decoded.grey
    hashes, thumb = fingerprint(grey)
    facts = (
        sha256,
        decoded.width,
        decoded.height,
        decoded.mode,
        decoded.format,
        file_bytes,
        recoded_bytes(grey),
        decoded.burned_in_text,
        decoded.unusable,
    )
    return Refined(
        decoded.frame,
        decoded.frames,
        _png(square(decoded.picture, size)),
        *facts,
        pixels.hexdigest(),
        hashes.astype("<u8").tobytes(),
        thumb.tobytes(),
    )


def recoded_bytes(grey: Image.Image) -> int:
    """Bytes of a picture of mode L as JPEG at `RECODE_QUALITY`."""
    out = io.BytesIO()
    grey.crop((0, 0, min(grey.width, MAX_JPEG_SIDE), min(grey.height, MAX_JPEG_SIDE))).save(out, "JPEG", quality=RECODE_QUALITY)
    return out.tell()


def fingerprint(picture: Image.Image) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The 64-bit perceptual hashes (imagehash.phash) of the eight orientations, (8,), and the luminance (32, 32), of the central square.

    Neither depends on the size to which images are refined, so groups do not change with it. A phash is the low 8 x 8 frequencies
    of the DCT, each as whether it exceeds their median; turned or mirrored, a picture has the same ones in other places or with another sign.
    """
    thumb = np.asarray(square(picture.convert("L"), THUMB, gap=2.0))
    low = (COSINES @ thumb.astype(np.float64) @ COSINES.T).round(6).ravel()[TURNED] * SIGNS  # a symmetric picture has zeros, not rounding errors
    middle = np.sort(low, axis=1)[:, low.shape[1] // 2 - 1 :][:, :2]
    bits = low > middle.mean(axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64), thumb


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 as PNG bytes, without metadata."""
    return _png(Image.fromarray(pixels))


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    # Runs and Huffman codes alone: photographs repeat nothing else, and are as small in less time; a scan grows by a third, four times as fast.
    picture.save(out, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return out.getvalue()
