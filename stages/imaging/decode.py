"""Any raster image or DICOM file as RGB pixels, by its content and never by its name; what cannot be read says why.

What a file says is followed: EXIF orientation, palettes, transparency (laid over black, or over
white where that alone shows something), CMYK and LAB, DICOM's look-up
tables. Grey of more than 8 bits is windowed to its own range where the file gives no window; of 16-bit colour, and of 16-bit
grey beside an alpha channel, the upper 8 bits are taken (Pillow gives no others), and it is told when they show nothing.
Not applied: ICC profiles (pixels are read as sRGB) and gamma. Of stereo
or preview pictures (MPO), icons and layers (PSD), only the main picture is used.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.imaging.text import burned_in_text
from stages.runtime.printed import printed

#: Raster formats of Pillow that a signature tells, the common ones first: each is tried in turn. Left out are EPS (Ghostscript
#: would run, and PostScript is a program), WMF (drawn by Windows alone), and BUFR, GRIB, HDF5 and MPEG (Pillow only names them).
SIGNED = (
    "JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "PSD", "ICO", "ICNS", "DDS", "QOI", "SGI", "SUN", "FITS", "BLP",
    "DCX", "FLI", "FTEX", "GBR", "MSP", "PIXAR", "MCIDAS", "PCD", "XBM", "XPM", "IM", "XVTHUMB",
)  # fmt: skip
#: Formats with a weak signature or none. Their headers hold a zero byte, which a text never does: it is asked for first.
UNSIGNED = ("CUR", "DIB", "PCX", "TGA", "SPIDER", "IMT", "IPTC")
FRAMED = {"AVIF", "DCX", "FLI", "GIF", "IM", "PNG", "SPIDER", "TIFF", "WEBP"}  # formats whose frames are pictures in their own right
SLOW = {"BLP", "DDS", "FTEX", "IPTC", "QOI", "XPM"}  # decoded in Python, some microseconds a pixel

MAX_PIXELS = 100_000_000  # a frame of 8 bits a sample
MAX_WIDE_PIXELS = 30_000_000  # a frame of more: a mammogram has 14 million, and windowing holds several copies of 8 bytes a pixel
MAX_SLOW_PIXELS = 4_000_000
MAX_FRAMES = 10_000
MIN_SIDE = 8  # px: what a fingerprint is made of (8 x 8 frequencies); what is enlarged, the data report counts
BLANK = "blank: every pixel has the same colour"
DARK = "nearly black: it has 16 bits a sample and uses the lower 12 alone; save it with 8"
TINY = f"tiny: under {MIN_SIDE} px a side"
WHITE_IS_ZERO = 262  # the TIFF tag PhotometricInterpretation, whose 0 says that white is 0
BITS, SAMPLE_FORMAT = 258, 339  # TIFF tags: bits a sample, and of what kind the numbers are: 1 (or none) unsigned, 2 signed
WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes with more than 8 bits a pixel

#: What people put among images, by its first bytes, in words for them.
KNOWN = {
    b"%PDF": "a PDF document: export its pictures first",
    b"%!PS": "PostScript (EPS), which is a program: it is not run",
    b"\xc5\xd0\xd3\xc6": "PostScript (EPS), which is a program: it is not run",
    b"PK\x03\x04": "a zip archive or Office document: unpack it first",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ\0": "an xz archive: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile, a drawing and not an image",
    b"NRRD": "an NRRD volume: export its slices as PNG or DICOM first",
    b"\x89HDF": "an HDF5 file: export its images as PNG first",
    b"<svg": "an SVG drawing: save it as PNG first",
    b"<?xml": "an XML file, such as an SVG drawing: save a drawing as PNG first",
    b"\xef\xbb\xbf<?xml": "an XML file, such as an SVG drawing: save a drawing as PNG first",
    b"\xef\xbb\xbf<svg": "an SVG drawing: save it as PNG first",
    b"<!DOCTYPE": "a web page or XML file: a download that failed is saved so",
    b"<!doctype": "a web page: a download that failed is saved so",
    b"<html": "a web page: a download that failed is saved so",
    b"version https://git-lfs": "a Git LFS pointer in place of a file: fetch the files with `git lfs pull`",
    b"\xff\x0a": "a JPEG XL image: save it as JPEG or PNG first",
    b"\0\0\0\x0cJXL ": "a JPEG XL image: save it as JPEG or PNG first",
    b"\0\0\0\x01Bud1": "a note of macOS on its folder (.DS_Store)",
    b"ObjectType = Image": "a MetaImage volume: export its slices as PNG or DICOM first",
    b"NDims = ": "a MetaImage volume: export its slices as PNG or DICOM first",
}
#: What Pillow says of a file that ends too early.
CUT_OFF = re.compile(r"[Tt]runcated|[Bb]uffer overrun|Expected to read|[Nn]ot enough|[Uu]nexpected end|got \d+ bytes|end of file|EOF")
#: How the common formats start, to tell a damaged image from what never was one.
STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF"}

#: How a DICOM dataset without preamble starts: with one of these elements of group 2 (file meta) or 8, and of these types.
_EARLY = (0, 1, 5, 8, 18, 22, 24, 32, 48, 80, 96, 112)  # in group 8: dates, times, modality, manufacturer and others that come first
FIRST_TAGS = {struct.pack("<HH", group, e) for group, elements in ((2, (0, 1, 2, 16)), (8, _EARLY)) for e in elements}
FIRST_VR = {b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO"}

Frames = Literal["first", "middle", "all"]


class Refused(Exception):
    """Why an image cannot be used, in words for its owner."""


class Unusable(Refused):
    """An image that can be read, but shows too little for what it is wanted for."""


@dataclass(frozen=True)
class Decoded:
    """One frame as an upright RGB picture, and facts about the file it came from.

    `width` and `height` are the upright picture's, in px; `mode` and `format` the file's (`"I;16"`, `"TIFF"`; `"MONOCHROME2
    16 bit"`, `"DICOM"`); `frame` is its index among the file's `frames`; `tagged`: the file itself says that text is burned in;
    `low_bits`: it has 16 bits a sample and next to nothing in the upper 8.
    """

    picture: Image.Image
    mode: str
    format: str
    frame: int = 0
    frames: int = 1
    tagged: bool = False
    low_bits: bool = False

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def height(self) -> int:
        return self.picture.height

    @cached_property
    def burned_in_text(self) -> bool:
        """Whether text is burned into the pixels: the file says so, or `text.burned_in_text` finds it. Looked for on first use."""
        return self.tagged or burned_in_text(self.picture, self.grey)

    @cached_property
    def grey(self) -> Image.Image:
        """The picture's luminance."""
        return self.picture.convert("L")

    @property
    def unusable(self) -> str:
        """Why the picture shows too little to learn from or to test on (`TINY`, `BLANK`, `DARK`), "" when it does not."""
        if min(self.picture.size) < MIN_SIDE:
            return TINY
        if self.picture.getcolors(1) is not None:  # None: a second colour, where the search ends
            return BLANK
        return DARK if self.low_bits else ""


class Opened(NamedTuple):
    """A file whose header has been read and found within the limits: how many frames it holds, and how to read one."""

    frames: int
    read: Callable[[int], Decoded]


def decode(data: bytes) -> Decoded:
    """The first frame of the bytes of an image file. Raises `Refused` with the reason."""
    return next(decode_frames(data, "first"))


def decode_frames(data: bytes, frames: Frames) -> Iterator[Decoded]:
    """The first, the middle (index `frames // 2`) or all frames of the bytes of an image file, one at a time.

    Raises `Refused` with the reason when the file cannot be read, or none of these frames can be used; with "all", single
    frames that cannot are left out.
    """
    with _plain_words(data):
        opened = _open_dicom(data) if is_dicom(data) else _open_picture(data)
    wanted = {"first": range(1), "middle": range(opened.frames // 2, opened.frames // 2 + 1), "all": range(opened.frames)}[frames]
    reason: Refused | None = None
    usable = 0
    for index in wanted:
        try:
            with _plain_words(data):
                decoded = opened.read(index)
        except Refused as refused:
            reason = reason or refused
        else:
            usable += 1
            yield decoded
    if not usable:
        raise reason or Refused("a file without an image")


def is_dicom(data: bytes) -> bool:
    """Whether bytes are DICOM: by the mark behind the preamble, or, without a preamble, by a plausible first data element."""
    if data[128:132] == b"DICM":
        return True
    if data[4:6] in FIRST_VR and (data[:4] in FIRST_TAGS or data[1::-1] + data[3:1:-1] in FIRST_TAGS):
        return True  # explicit VR, little or big endian
    return data[:4] in FIRST_TAGS and 1 <= int.from_bytes(data[4:8], "little") <= 256  # implicit VR: the length of a short value


@contextmanager
def _plain_words(data: bytes) -> Iterator[None]:
    """Every failure inside becomes `Refused`, with a reason that holds no content of the file, and the last that a C library had to say."""
    printed()  # of an earlier file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; its errors are what counts
            yield
    except (Refused, MemoryError):  # what is too much in a worker that has done much else may fit into a fresh one
        raise
    except UnidentifiedImageError:
        raise Refused(_not_an_image(data)) from None
    except Image.DecompressionBombError:
        raise Refused(f"over {MAX_PIXELS:,} pixels when unpacked") from None
    except Exception as error:  # the readers raise nearly every built-in exception on broken files
        told = _in_words(str(error)) or type(error).__name__
        if last := printed().splitlines()[-1:]:
            told += f' (the decoder says "{_in_words(last[0])}")'
        if CUT_OFF.search(told):
            raise Refused(f"broken image, damaged or cut off: copy it from its source again ({told})") from None
        raise Refused(f"broken or unsupported image: {told}") from None


def _in_words(told: str) -> str:
    """A library's message in one line, without memory addresses and quoted content."""
    told = " ".join(re.sub(r"""<[^>]*>|0x[0-9a-f]+|b?'[^']*'|b?"[^"]*\"|\(\d+ bytes not processed\)""", "", told).split())
    if told.startswith("decoder error"):  # and a number
        return "its pixels cannot be unpacked"
    return "a text or profile in it unpacks to too much" if "MAX_TEXT_CHUNK" in told or "MAX_TEXT_MEMORY" in told else told


def _not_an_image(data: bytes) -> str:
    if not data:
        return "empty file"
    if known := known_as(data):
        return f"not an image: {known}"
    if name := next((name for start, name in STARTS.items() if data.startswith(start)), None):
        return f"broken image: it starts as a {name} file does, and is damaged or of a kind that cannot be read (save it with 8 or 16 bits a sample)"
    return "not an image of a known format (JPEG, PNG, TIFF, DICOM and other raster formats)"


def known_as(data: bytes) -> str | None:
    """What a file that is no image is, by its first 512 bytes or more, and what to do about it; None where that is not known."""
    if data[4:10] == b"ftyphe" or data[4:12] in (b"ftypmif1", b"ftypmsf1"):
        return "a HEIC photograph: save it as JPEG or PNG first"
    if data[4:8] == b"ftyp" and data[8:11] != b"avi":
        return "a video: save its frames as PNG first"
    if data[:4] == b"II*\0" and data[8:10] == b"CR":
        return "a raw photograph of a Canon camera: save it as JPEG or PNG first"
    if data[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume: export its slices as PNG or DICOM first"
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    return next((told for start, told in KNOWN.items() if data.startswith(start)), None)


def _open_dicom(data: bytes) -> Opened:
    from stages.imaging import dicom  # here, for pydicom takes longer to load than most images, and few files need it

    return dicom.open_dicom(data)


def _open_picture(data: bytes) -> Opened:
    formats = SIGNED + UNSIGNED if b"\0" in data[:512] else SIGNED
    picture = Image.open(io.BytesIO(data), formats=formats)
    mode, name = picture.mode, str(picture.format)
    if name in UNSIGNED and min(picture.size) < MIN_SIDE:
        raise Refused(f"{picture.width} x {picture.height} px of a format without a signature: too small to tell an image from other data")
    if name in SLOW:
        check_size(picture.width, picture.height, MAX_SLOW_PIXELS, f", and {name} is slow to read: save it as PNG")
    check_size(picture.width, picture.height, MAX_WIDE_PIXELS if mode in WIDE else MAX_PIXELS)
    frames = _count(picture, data) if name in FRAMED else 1

    def read(index: int) -> Decoded:
        if index != picture.tell() and frames > 1:
            picture.seek(index)
            check_size(picture.width, picture.height, MAX_WIDE_PIXELS if picture.mode in WIDE else MAX_PIXELS)
        deep = ";16" in str(getattr(picture, "tile", ""))  # how it is packed, which is forgotten when the pixels are loaded
        own = picture if frames == 1 else picture.copy()  # what follows changes the picture, and an animation builds upon it
        upright = _upright(own)
        low_bits = deep and upright.mode in ("RGB", "RGBA") and max(high for _, high in upright.getextrema()[:3]) < 16  # type: ignore[misc]
        rgb = _to_rgb(_signed(upright, getattr(picture, "tag_v2", {})))
        if name == "TIFF" and picture.mode in WIDE and getattr(picture, "tag_v2", {}).get(WHITE_IS_ZERO) == 0:
            rgb = ImageOps.invert(rgb)  # Pillow does so for 8 bits alone
        return Decoded(rgb, mode, name, index, frames, low_bits=low_bits)

    return Opened(frames, read)


def check_size(width: int, height: int, limit: int, advice: str = "") -> None:
    """Refuse an image by the size its header claims, in px, before memory is taken."""
    if width * height > limit:
        raise Refused(f"over {limit:,} pixels when unpacked{advice}")


def check_frames(frames: int) -> None:
    """Refuse a file by the number of frames it claims."""
    if frames > MAX_FRAMES:
        raise Refused(f"over {MAX_FRAMES:,} frames")


def _count(picture: Image.Image, data: bytes) -> int:
    """How many frames an opened picture holds, those before a broken one where the format tells, and 1 or more. Raises `Refused` when it is too many."""
    frames = 0
    try:
        if picture.format == "GIF":  # counting reads all, so first a bound: a zero byte and a comma precede every frame but the first
            check_frames(data.count(b"\0,"))
        if picture.format == "TIFF":  # n_frames would follow a chain of directories of any length
            with suppress(EOFError):
                for frames in range(MAX_FRAMES + 1):
                    picture.seek(frames)
                frames = MAX_FRAMES + 1
        else:
            frames = int(getattr(picture, "n_frames", 1))
    except (Refused, MemoryError):
        raise
    except Exception:  # of a TIFF's pages those that came before the broken one; of other formats the first
        frames = max(frames, 1)
    check_frames(frames)
    if picture.tell() != 0:
        picture.seek(0)
    return max(frames, 1)


def _upright(picture: Image.Image) -> Image.Image:
    """The loaded picture with its EXIF orientation applied; a broken EXIF block is no reason to lose the image."""
    picture.load()
    with suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _signed(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """A loaded picture whose numbers have the sign that its TIFF tags say: Pillow reads 8 bits as unsigned and 32 as signed."""
    bits, kind = (int(np.ravel(tags.get(tag, 1))[0]) for tag in (BITS, SAMPLE_FORMAT))
    if picture.mode == "L" and (bits, kind) == (8, 2):
        return Image.fromarray(np.asarray(picture).view(np.int8).astype(np.int32))
    if picture.mode == "I" and (bits, kind) == (32, 1):
        return Image.fromarray(np.asarray(picture).view(np.uint32).astype(np.float32))
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in WIDE:
        return Image.fromarray(window(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        over_black = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
        if over_black.getbbox() is not None:
            return over_black
        over_white = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
        return over_white if over_white.getcolors(1) is None else over_black
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def window(values: NDArray[np.generic], ignored: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """(H, W) numbers of any range as (H, W) uint8: the 0.1 to 99.9 percentiles of the finite ones become 0 to 255.

    Percentiles, so that one hot pixel does not turn a scan black. Pixels `ignored` (H, W) have no part in them. Raises
    `Unusable` when nothing is finite.
    """
    numbers = np.array(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers) if ignored is None else np.isfinite(numbers) & ~ignored]
    if not finite.size:
        raise Unusable("no finite pixel value")
    least, most = float(finite.min()), float(finite.max())
    low, high = np.percentile(finite, (0.1, 99.9), overwrite_input=True)
    if high <= low:
        low, high = least, most
    del finite  # a mammogram of 28 million pixels has room for two such arrays in a worker, not for five
    np.nan_to_num(numbers, copy=False, nan=low, posinf=high, neginf=low)
    with np.errstate(over="ignore"):
        numbers -= low
        numbers /= max(high - low, np.finfo(float).tiny)
    np.clip(numbers, 0, 1, out=numbers)
    numbers *= 255
    return np.round(numbers, out=numbers).astype(np.uint8)


def square(picture: Image.Image, size: int, gap: float = 3.0) -> Image.Image:
    """The largest central square of `picture`, resized to `size` px. Never letterboxed: bars would tell where a file came from.

    A larger one is first reduced by whole factors to `gap` times `size` or more (Pillow's reducing_gap): the less, the faster and the coarser.
    """
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Cropped first: resize(box=...) lets pixels from outside the box bleed in at its edges.
    cropped = picture.crop((left, top, left + side, top + side))
    return cropped.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=gap)
