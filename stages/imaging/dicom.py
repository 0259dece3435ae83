"""DICOM files as RGB pixels, by pydicom and the decoders it recommends; imported only when a file looks like DICOM.

Grey frames go through the modality LUT (or rescale), then the first VOI LUT or window that the file gives for the frame;
where it gives none, or one that shows nothing, they are windowed to their own range as `decode.window` does, with pixel
padding left out and black. MONOCHROME1 is inverted, for there a low value is bright. Colour (RGB, YBR, palettes) is scaled
from its own bits to 8. Not applied: overlays, presentation states, ICC profiles, and the shape of pixels (PixelAspectRatio,
PixelSpacing): a scan with oblong pixels stays squeezed. No reason quotes the file, for its values may be a patient's.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.pixels.decoders import JPEGExtended12BitDecoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from stages.imaging.decode import MAX_PIXELS, MAX_WIDE_PIXELS, Decoded, Opened, Refused, check_frames, check_size, window

MAX_INFLATED = 256 * 2**20  # bytes a deflated dataset may unpack to

#: DICOM objects without an image that people find among their images, by part of the name of their SOP class.
IMAGELESS = {
    " SR ": "a structured report", "Structured Report": "a structured report", "Dose SR": "a structured report",
    "Encapsulated": "an encapsulated document (PDF, CDA or 3D model)",
    "Media Storage Directory": "a DICOMDIR, the table of contents of a disc",
    "Waveform": "a recorded signal, such as an ECG", "RT Structure": "radiotherapy contours", "RT ": "a radiotherapy plan or record",
    "Key Object": "a list of key images", "Presentation State": "a presentation state, which says how to show another image",
    "Raw Data": "raw data of the scanner", "Spectroscopy": "a spectrum",
}  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
MODALITY = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope")
#: What every image of whole numbers has (DICOM PS3.3, C.7.6.3).
NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation")
VOI = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")

config.settings.reading_validation_mode = config.IGNORE  # odd values are read as they are
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its warnings quote values of the file
if "rarelens" not in JPEGExtended12BitDecoder.available_plugins:
    JPEGExtended12BitDecoder.add_plugin("rarelens", ("stages.imaging.jpeg12", "decode_frame"))


def open_dicom(data: bytes) -> Opened:
    """Read the header of a DICOM file, with or without preamble, and check it against the limits. Raises `Refused`."""
    _refuse_deflate_bomb(data)
    try:
        dataset = dcmread(io.BytesIO(data), force=True)
        _complete_meta(dataset)
        if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise Refused(f"a DICOM file without an image: {_imageless(dataset)}")
        rows, columns, samples = _int(dataset, "Rows", 0), _int(dataset, "Columns", 0), _int(dataset, "SamplesPerPixel", 1)
        # Some devices write 0 for one frame, and pydicom reads it so.
        frames, bits = _int(dataset, "NumberOfFrames", 1) or 1, _int(dataset, "BitsAllocated", 64)
        kind = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
        stored = _int(dataset, "BitsStored", bits)
        _mend(dataset, kind, samples)
    except (Refused, MemoryError):
        raise
    except Exception:
        raise Refused("broken DICOM file: its header cannot be read") from None
    if kind not in (*GREY, PALETTE, *COLOUR):
        raise Refused(f"unsupported DICOM image: its kind of colour (PhotometricInterpretation) is not known{_lacking(dataset)}")
    if min(rows, columns, frames) < 1 or samples != (3 if kind in COLOUR else 1):
        raise Refused(f"broken DICOM file: rows, columns, frames or samples a pixel make no sense{_lacking(dataset)}")
    check_frames(frames)
    check_size(columns, rows, MAX_PIXELS if bits <= 8 else MAX_WIDE_PIXELS // samples)
    tagged = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"

    @cache
    def every() -> NDArray[Any]:
        return pixel_array(dataset)

    def read(index: int) -> Decoded:
        try:
            # pydicom cuts frames of single bits at whole bytes, where they need not end.
            pixels = every()[index] if bits == 1 and frames > 1 and rows * columns % 8 else pixel_array(dataset, index=index)
            picture = Image.fromarray(_grey(pixels, dataset, index) if kind in GREY else _colour(pixels, dataset, stored)).convert("RGB")
        except (Refused, MemoryError):
            raise
        except NotImplementedError:
            raise Refused("a DICOM image compressed in a way that no installed decoder reads") from None
        except Exception:
            raise Refused(f"broken DICOM image: its pixels cannot be unpacked{_lacking(dataset)}") from None
        return Decoded(picture, f"{kind} {stored} bit", "DICOM", index, frames, tagged)

    return Opened(frames, read)


def _mend(dataset: Dataset, kind: str, samples: int) -> None:
    """Put right what devices and anonymisers leave wrong, and what has one meaning all the same."""
    if kind:
        dataset.PhotometricInterpretation = kind
    syntax = dataset.file_meta.TransferSyntaxUID
    compressed = syntax.is_encapsulated and syntax != RLELossless
    if samples > 1 and (compressed or dataset.get("PlanarConfiguration") is None):
        dataset.PlanarConfiguration = 0  # it says nothing of JPEG and its kin, whose decoders give whole pixels


def _lacking(dataset: Dataset) -> str:
    """What of `NEEDED` the file does not say, as the end of a sentence."""
    missing = [name for name in NEEDED if dataset.get(name) is None]
    return f"; it does not give {', '.join(missing)}" if missing else ""


def _int(dataset: Dataset, name: str, absent: int) -> int:
    value = dataset.get(name)
    return absent if value is None else int(value)


def _refuse_deflate_bomb(data: bytes) -> None:
    """A deflated dataset is unpacked whole by pydicom, so first in pieces, up to the limit."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:4096] or data[132:138] != b"\x02\0\0\0UL":
        return
    start = 144 + int(struct.unpack("<I", data[140:144])[0])  # behind the file meta group, whose first element is its length
    unpacker, rest, size = zlib.decompressobj(-zlib.MAX_WBITS), data[start:], 0
    while rest:
        try:
            size += len(unpacker.decompress(rest, 2**20))
        except zlib.error:
            return
        if size > MAX_INFLATED:
            raise Refused(f"over {MAX_INFLATED:,} bytes when unpacked")
        rest = unpacker.unconsumed_tail


def _complete_meta(dataset: Dataset) -> None:
    """Where the file does not name its transfer syntax, the one by which pydicom read it."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _imageless(dataset: Dataset) -> str:
    uid = UID(str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""))
    for part, told in IMAGELESS.items():
        if part in uid.name:
            return told
    return "its pixel data is missing"


def _frame_values(dataset: Dataset, index: int) -> tuple[Dataset, Dataset]:
    """What the file says of one frame's modality transform and of its VOI window: its own, the shared and the file's, in this order."""
    holders = [dataset]
    for groups, item in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        for group in list(dataset.get(groups) or [])[item : item + 1]:
            holders += [inner[0] for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence") if (inner := group.get(name))]
    found = []
    for names in (MODALITY, VOI):
        one = Dataset()
        one.file_meta = dataset.file_meta
        for holder in holders:
            for name in names:
                if _says(holder, name):
                    one.add(holder[name])
        found.append(one)
    modality, voi = found
    if "RescaleSlope" in modality or "RescaleIntercept" in modality:  # pydicom wants both
        modality.RescaleSlope, modality.RescaleIntercept = modality.get("RescaleSlope", 1), modality.get("RescaleIntercept", 0)
    return modality, voi


def _says(holder: Dataset, name: str) -> bool:
    """Whether an element is there and holds something: anonymisers leave empty ones, and tables without their data."""
    value = holder.get(name)
    if name.endswith("LUTSequence"):
        return bool(value) and all(value[0].get(part) for part in ("LUTDescriptor", "LUTData"))
    return value is not None and str(value).strip() != "" and value != []


def _grey(pixels: NDArray[np.generic], dataset: Dataset, index: int) -> NDArray[np.uint8]:
    """(H, W) stored values of any type as the (H, W) uint8 that a viewer shows."""
    modality, voi = _frame_values(dataset, index)
    padding = None
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:  # once for each value that occurs: a mammogram has 28 million pixels
        least = int(pixels.min())
        table = _windowed(apply_modality_lut(np.arange(least, int(pixels.max()) + 1).astype(pixels.dtype), modality), voi)
        grey = None if table is None else table[pixels.astype(np.int32) - least]  # type: ignore[operator]
    else:
        grey = _windowed(apply_modality_lut(pixels, modality), voi)
    if grey is None or grey.min() == grey.max():
        padding = _padding(pixels, dataset)
        grey = window(apply_modality_lut(pixels, modality), padding)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return grey


def _padding(pixels: NDArray[np.generic], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Which stored values are padding: PixelPaddingValue, to PixelPaddingRangeLimit where there is one. None: no pixel, or all."""
    if dataset.get("PixelPaddingValue") is None:
        return None
    first = int(dataset.PixelPaddingValue)
    ends = [first, _int(dataset, "PixelPaddingRangeLimit", first)]
    if pixels.dtype.kind == "i":  # some files write negative values as if they had no sign
        span = 2 ** (8 * pixels.dtype.itemsize)
        ends = [end - span if end >= span // 2 else end for end in ends]
    low, high = sorted(ends)
    padding: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)  # type: ignore[operator]
    return padding if padding.any() and not padding.all() else None


def _windowed(numbers: NDArray[np.generic], voi: Dataset) -> NDArray[np.uint8] | None:
    """Values of any shape through the first VOI LUT or window as uint8. None: the file gives none that makes sense."""
    # For pydicom, as which range to give the result of a window: 0 to 65535.
    voi.BitsStored, voi.PixelRepresentation, voi.PhotometricInterpretation = 16, 0, "MONOCHROME2"
    try:
        if voi.get("VOILUTSequence"):
            entries, first, bits = voi.VOILUTSequence[0].LUTDescriptor
            if bits == 8 and entries > 2**8:  # pydicom would look it up by numbers of 8 bits, which begin again at 256
                voi = deepcopy(voi)
                voi.VOILUTSequence[0].LUTDescriptor = [entries, first, 16]
            numbers = np.round(numbers).astype(np.int32)  # type: ignore[arg-type]
            highest = int(apply_voi_lut(np.arange(first, first + (entries or 2**16)), voi).max())
            nominal = 2**bits - 1
            top = nominal if nominal // 2 < highest <= nominal else highest  # the file may claim more bits than its table has
        elif "WindowCenter" in voi and "WindowWidth" in voi:
            top = 2**16 - 1
        else:
            return None
        shown = apply_voi_lut(numbers, voi)
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError, struct.error):
        return None
    return np.round(np.clip(shown / top, 0, 1) * 255).astype(np.uint8)


def _colour(pixels: NDArray[np.generic], dataset: Dataset, bits: int) -> NDArray[np.uint8]:
    """(H, W) palette indices or (H, W, 3) RGB as (H, W, 3) uint8. pydicom has turned YBR to RGB."""
    if dataset.PhotometricInterpretation == PALETTE:
        pixels = apply_color_lut(pixels, dataset)[..., :3]  # a fourth is alpha
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        tables = [bytes(dataset.get(f"{name}PaletteColorLookupTableData") or b"") for name in ("Red", "Green", "Blue")]
        if bits == 16 and all(tables) and not any(any(table[1::2]) or len(table) % 2 for table in tables):
            bits = 8  # a table of 16 bits that holds numbers of 8
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    top = 2**bits - 1 if pixels.max() < 2**bits else int(pixels.max())  # type: ignore[operator]
    return np.asarray(np.round(np.clip(pixels / top, 0, 1) * 255), np.uint8)  # type: ignore[operator]
