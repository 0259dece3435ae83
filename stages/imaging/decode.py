"""Any common raster file as RGB pixels, by its content and never by its name; what cannot be read says why."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

#: Raster formats tried. Left out on purpose: formats that run another program (EPS) or have no signature to tell them by.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes with more than 8 bits a pixel


class Refused(Exception):
    """Why an image cannot be used, in words for its owner."""


class Unusable(Refused):
    """An image that can be read, but shows too little: tiny, blank or nothing finite."""


class Decoded(NamedTuple):
    """An upright RGB picture (of a file with several frames, the first) and facts about the file it came from."""

    picture: Image.Image
    width: int
    height: int
    mode: str
    format: str
    frame: int = 0
    frames: int = 1
    burned_in_text: bool = False


def decode_frames(data: bytes, frames: Literal["first", "middle", "all"]) -> Iterator[Decoded]:
    """The wanted frames of a file."""
    yield decode(data)


def decode(data: bytes) -> Decoded:
    """The bytes of an image file as an upright 8-bit RGB picture; width and height are the upright picture's, in px.

    EXIF orientation is applied, transparency is laid over black, palettes, grey and CMYK become RGB, and more than 8 bits
    are windowed to the image's own range. Raises `Refused` with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; its errors are what counts
            return _decode(data)
    except (Refused, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Refused(f"not an image of a known format ({', '.join(FORMATS)})" if data else "empty file") from None
    except Image.DecompressionBombError:
        raise Refused(f"over {MAX_PIXELS:,} pixels when unpacked") from None
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on broken files
        told = re.sub(r"<[^>]*>|0x[0-9a-f]+", "", str(error))  # no memory addresses
        raise Refused(f"broken or unsupported image: {' '.join(told.split()) or type(error).__name__}") from None


def _decode(data: bytes) -> Decoded:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    mode, name = picture.mode, str(picture.format)
    if picture.width * picture.height > MAX_PIXELS:
        raise Refused(f"over {MAX_PIXELS:,} pixels when unpacked")
    if min(picture.size) < MIN_SIDE:
        raise Unusable(f"{picture.width} x {picture.height} px is too small to show anything (at least {MIN_SIDE} px a side)")
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    rgb = _to_rgb(upright)
    if all(low == high for low, high in rgb.getextrema()):  # type: ignore[misc]  # RGB: a pair per band
        raise Unusable("blank: every pixel has the same colour")
    return Decoded(rgb, rgb.width, rgb.height, mode, name)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in WIDE:
        return Image.fromarray(window(np.asarray(picture))).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return picture.convert("RGB")


def window(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) numbers of any range as (H, W) uint8: the 0.1 to 99.9 percentiles of the finite ones become 0 to 255.

    Percentiles, so that one hot pixel does not turn a scan black. Raises `Unusable` when nothing is finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        raise Unusable("no finite pixel value")
    low, high = np.percentile(finite, (0.1, 99.9))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    scaled = (np.nan_to_num(numbers, nan=low, posinf=high, neginf=low) - low) / max(high - low, np.finfo(float).tiny)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def square(picture: Image.Image, size: int) -> Image.Image:
    """The largest central square of `picture`, resized to `size` px. Never letterboxed: bars would tell where a file came from."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Cropped first: resize(box=...) lets pixels from outside the box bleed in at its edges.
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
