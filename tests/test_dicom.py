"""DICOM: look-up tables, windows, colours, frames and limits; files are built here with pydicom."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit,
    RLELossless, SecondaryCaptureImageStorage,
)  # fmt: skip

from stages.imaging import dicom
from stages.imaging.decode import BLANK, TINY, Refused, decode, decode_frames, is_dicom, window
from tests.odd_files import outcomes
from tests.test_decode import ODD, SUFFICIENT, difference, encoded, mutated, scene, survives

ODD_DICOM = ODD.with_name("odd_dicom.tar")
RAMP = np.tile(np.arange(1000, 1064, dtype=np.uint16), (48, 1)) * 16  # 16000 to 17008


def dataset(pixels: NDArray[np.generic], kind: str = "MONOCHROME2", syntax: str = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """A secondary capture of `pixels`: (H, W), (H, W, 3), or (frames, H, W) with NumberOfFrames."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = syntax
    one.SOPClassUID, one.SOPInstanceUID, one.PatientName = SecondaryCaptureImageStorage, "1.2.3", "Roe^Jane"
    one.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if one.SamplesPerPixel == 3:
        one.PlanarConfiguration = 0
    shape = pixels.shape[:-1] if one.SamplesPerPixel == 3 else pixels.shape
    one.Rows, one.Columns = shape[-2:]
    one.PhotometricInterpretation = kind
    bits = 8 * pixels.dtype.itemsize
    one.BitsAllocated, one.BitsStored, one.HighBit = bits, bits, bits - 1
    one.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.dtype.kind == "f":
        one.FloatPixelData = pixels.tobytes()
    else:
        one.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
        one["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in elements.items():
        setattr(one, name, value)
    return one


def written(one: Dataset, preamble: bool = True) -> bytes:
    out = io.BytesIO()
    if preamble:
        one.save_as(out, enforce_file_format=True)
        return out.getvalue()
    implicit, little = one.file_meta.TransferSyntaxUID.is_implicit_VR, one.file_meta.TransferSyntaxUID.is_little_endian
    del one.file_meta
    one.save_as(out, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


def grey(one: Dataset) -> NDArray[np.uint8]:
    return np.asarray(decode(written(one)).picture)[..., 0]


def table(values: NDArray[np.generic], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.ModalityLUTType = "US"
    item.LUTData = [int(v) for v in values]
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    return item


def test_without_a_window_the_image_is_windowed_to_its_own_range() -> None:
    for values in (RAMP, RAMP.astype(np.int16) - 16500, RAMP.astype(np.uint32) * 1000, RAMP.astype(np.float32) / 7):
        shown = grey(dataset(values))
        assert np.array_equal(shown, window(values)) and shown.min() == 0 and shown.max() == 255


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_first_window_of_the_file_is_used_after_rescaling(function: str) -> None:
    slope, intercept, centre, width = 0.5, -7000, [1250.0, 9.0], [400.0, 9.0]
    one = dataset(RAMP, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    x = RAMP * slope + intercept
    expected = {
        "LINEAR": ((x - (centre[0] - 0.5)) / (width[0] - 1) + 0.5) * 255,
        "LINEAR_EXACT": ((x - centre[0]) / width[0] + 0.5) * 255,
        "SIGMOID": 255 / (1 + np.exp(-4 * (x - centre[0]) / width[0])),
    }[function]
    assert np.abs(grey(one) - np.clip(expected, 0, 255)).max() <= 0.51


def test_a_falling_rescale_and_a_window_keep_high_values_bright() -> None:
    shown = grey(dataset(RAMP, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-16500, WindowWidth=1000)).astype(int)
    assert (np.diff(shown[0]) <= 0).all() and shown[0, 0] > 200 and shown[0, -1] < 50


def test_look_up_tables_are_followed() -> None:
    values = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    voi = grey(dataset(values, VOILUTSequence=Sequence([table(np.arange(64)[::-1] * 65, 0, 12)])))
    assert np.abs(voi[0] - np.arange(64)[::-1] * 65 / 4095 * 255).max() <= 0.51
    modality = grey(dataset(values, ModalityLUTSequence=Sequence([table(np.arange(64) ** 2, 0, 16)])))
    assert np.array_equal(modality, window(values.astype(int) ** 2))


def test_a_table_of_8_bits_with_more_than_256_entries_does_not_begin_again() -> None:
    values = np.tile(np.linspace(0, 1023, 64).astype(np.uint16), (48, 1))
    shown = grey(dataset(values, VOILUTSequence=Sequence([table(np.arange(1024) // 4, 0, 8)])))
    assert np.abs(shown[0] - values[0] // 4).max() <= 1


@pytest.mark.parametrize("centre_width", [(0, 0), (-90000, 10), (16500, -3)])
def test_a_window_that_shows_nothing_is_passed_over(centre_width: tuple[int, int]) -> None:
    assert np.array_equal(grey(dataset(RAMP, WindowCenter=centre_width[0], WindowWidth=centre_width[1])), window(RAMP))


def test_monochrome1_is_inverted_and_padding_is_black_and_out_of_the_window() -> None:
    padded = RAMP.astype(np.int16).copy()
    padded[:10] = -2000
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        shown = grey(dataset(padded, kind, PixelPaddingValue=-2000))
        assert (shown[:10] == 0).all()
        bright = window(RAMP[10:])
        assert np.array_equal(shown[10:], bright if kind == "MONOCHROME2" else 255 - bright)


def test_a_single_bit_is_black_and_white() -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:24, 16:40] = 1
    one = dataset(mask)
    one.BitsAllocated, one.BitsStored, one.HighBit = 1, 1, 0
    one.PixelData = np.packbits(mask.ravel(), bitorder="little").tobytes()
    assert np.array_equal(grey(one), mask * 255)


def test_colours_come_out_as_they_went_in() -> None:
    rgb = np.asarray(scene())
    assert np.array_equal(np.asarray(decode(written(dataset(rgb, "RGB"))).picture), rgb)
    assert np.array_equal(np.asarray(decode(written(dataset(rgb.astype(np.uint16) * 257, "RGB"))).picture), rgb)
    planes = dataset(rgb, "RGB", PlanarConfiguration=1)
    planes.PixelData = rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(np.asarray(decode(written(planes)).picture), rgb)
    ybr = np.asarray(scene().convert("YCbCr"))
    assert difference(decode(written(dataset(ybr, "YBR_FULL"))).picture, rgb) <= SUFFICIENT


@pytest.mark.parametrize(("bits", "segmented"), [(8, False), (16, False), (16, True)])
def test_palettes(bits: int, segmented: bool) -> None:
    index = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    one = dataset(index, "PALETTE COLOR")
    for k, colour in enumerate(("Red", "Green", "Blue")):
        top = 2**bits - 1
        values = np.linspace(0, top, 256).astype(f"u{bits // 8}") if k == 0 else np.full(256, top // (k + 1), f"u{bits // 8}")
        setattr(one, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        one[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        if segmented:  # a discrete first entry, then a straight line to the last
            data = np.array([0, 1, values[0], 1, 255, values[-1]], np.uint16).tobytes()
            setattr(one, f"Segmented{colour}PaletteColorLookupTableData", data)
        else:
            setattr(one, f"{colour}PaletteColorLookupTableData", values.tobytes())
    shown = np.asarray(decode(written(one)).picture)[0].astype(int)
    expected = np.stack([index[0], np.full(64, 127), np.full(64, 85)], 1)
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_transfer_syntaxes_that_lose_nothing(syntax: str) -> None:
    one = dataset(RAMP, syntax=syntax if syntax not in (RLELossless, JPEG2000Lossless) else ExplicitVRLittleEndian)
    if syntax in (RLELossless, JPEG2000Lossless):
        one.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(grey(one), window(RAMP))


def test_jpeg_inside_is_decoded_in_colour() -> None:
    one = dataset(np.asarray(scene()), "YBR_FULL_422", JPEGBaseline8Bit)
    one.PixelData = encapsulate([encoded(scene(), "JPEG", quality=95)])
    assert difference(decode(written(one)).picture, scene()) <= 4 / 255


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_dataset_without_preamble_is_dicom(syntax: str) -> None:
    data = written(dataset(RAMP, syntax=syntax), preamble=False)
    assert data[128:132] != b"DICM" and is_dicom(data)
    assert np.array_equal(np.asarray(decode(data).picture)[..., 0], window(RAMP))


def test_frames_with_windows_of_their_own() -> None:
    stack = np.stack([RAMP, RAMP + 500, np.full_like(RAMP, 3)])
    groups = []
    for centre in (16300, 17000, 3):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 401
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    one = dataset(stack, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=Sequence(groups))
    found = list(decode_frames(written(one), "all"))
    assert [(d.frame, d.frames, d.mode, d.format) for d in found] == [(k, 3, "MONOCHROME2 16 bit", "DICOM") for k in (0, 1, 2)]
    assert [d.unusable for d in found] == ["", "", BLANK]
    for d, values, centre in zip(found, stack, (16300, 17000), strict=False):
        expected = np.clip(((values - (centre - 0.5)) / 400 + 0.5) * 255, 0, 255)
        assert np.abs(np.asarray(d.picture)[..., 0] - expected).max() <= 0.51
    assert next(decode_frames(written(one), "middle")).frame == 1


def test_no_frames_are_one() -> None:
    one = dataset(RAMP, NumberOfFrames=0)
    assert [(d.frame, d.frames) for d in decode_frames(written(one), "all")] == [(0, 1)]
    assert np.array_equal(grey(one), window(RAMP))


def test_the_file_may_say_that_text_is_burned_in() -> None:
    assert decode(written(dataset(RAMP, BurnedInAnnotation="YES"))).burned_in_text
    assert not decode(written(dataset(RAMP, BurnedInAnnotation="NO"))).burned_in_text


@pytest.mark.parametrize(
    ("uid", "told"),
    [("1.2.840.10008.5.1.4.1.1.88.11", "structured report"), ("1.2.840.10008.5.1.4.1.1.104.1", "encapsulated document"),
     ("1.2.840.10008.1.3.10", "table of contents"), ("1.2.840.10008.5.1.4.1.1.481.5", "radiotherapy plan"),
     ("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG"), ("1.2.840.10008.5.1.4.1.1.2", "pixel data is missing")],
)  # fmt: skip
def test_dicom_without_an_image_is_called_by_its_name(uid: str, told: str) -> None:
    one = dataset(RAMP)
    del one.PixelData
    one.SOPClassUID = uid
    with pytest.raises(Refused, match=told):
        decode(written(one))


def test_limits_hold_and_reasons_quote_no_patient() -> None:
    huge = dataset(RAMP, Rows=60_000, Columns=60_000)
    many = dataset(RAMP, NumberOfFrames=2_000_000)
    short = dataset(RAMP, Rows=4_000)
    odd = dataset(RAMP, PhotometricInterpretation="Roe Jane")
    frames = dataset(RAMP)
    frames.add_new("NumberOfFrames", "LO", "Jane")
    for one, told in ((huge, "when unpacked"), (many, "frames"), (short, "broken"), (odd, "not known"), (frames, "broken")):
        with pytest.raises(Refused, match=told) as reason:
            decode(written(one))
        assert "Jane" not in str(reason.value) and "JANE" not in str(reason.value)
    assert decode(written(dataset(RAMP[:7, :7].copy()))).unusable == TINY
    assert decode(written(dataset(np.full((48, 64), 9, np.uint16)))).unusable == BLANK


@pytest.mark.parametrize("name", ["Rows", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation"])
def test_an_element_that_is_missing_is_named(name: str) -> None:
    one = dataset(RAMP)
    delattr(one, name)
    with pytest.raises(Refused, match=f"; it does not give {name}$"):
        decode(written(one))


def test_a_deflated_bomb_is_refused_without_being_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10_000_000)
    data = written(dataset(RAMP, syntax=DeflatedExplicitVRLittleEndian))
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = data[:start] + packer.compress(bytes(50_000_000)) + packer.flush()
    with pytest.raises(Refused, match="bytes when unpacked"):
        decode(bomb)
    assert decode(data).width == 64


def test_mutated_dicom_is_decoded_or_refused() -> None:
    rng = np.random.default_rng(11)
    rle = dataset(RAMP)
    rle.compress(RLELossless, generate_instance_uid=False)
    seeds = [written(dataset(RAMP, WindowCenter=16500, WindowWidth=900)), written(rle), written(dataset(np.asarray(scene()), "RGB"))]
    outcomes = []
    for k in range(240):
        data = seeds[k % 3]
        outcomes.append(survives(data[:132] + mutated(data[132:], rng)))
    assert 20 < sum(outcomes) < 220


#: Files of odd_dicom.tar against pydicom's pixel_array and the transform that the module states, in plain numpy.
NAMED = [
    "MR1_J2KI", "NM1_J2KI", "RG3_J2KI", "US1_J2KI", "VL6_J2KI", "CT2_J2KR", "MR1_JLSL", "MR4_JLSN", "MR3_JPLL", "NM1_RLE", "693_J2KR.dcm",
    "HTJ2K_08_RGB.dcm", "JLSL_RGB_ILV0.dcm", "SC_rgb_expb_32bit.dcm", "SC_ybr_full_uncompressed.dcm", "color-pl.dcm", "emri_small.dcm",
    "explicit_VR-UN.dcm", "liver_nonbyte_aligned.dcm", "CT_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_rle_16bit.dcm",
    "image_dfl.dcm", "examples_overlay.dcm", "bad_sequence.dcm", "6154", "17106", "JPGLosslessP14SV1_1s_1f_8b.dcm", "SC_ybr_full_422_uncompressed.dcm",
]  # fmt: skip


def reference(one: FileDataset) -> NDArray[np.float64]:
    """The first frame as the standard says, (H, W) or (H, W, 3), 0 to 255, written apart from `stages.imaging.dicom`."""
    pixels = one.pixel_array[0] if int(one.get("NumberOfFrames") or 1) > 1 else one.pixel_array
    if pixels.ndim == 3:
        return np.asarray(pixels / (2**one.BitsStored - 1) * 255)
    x = pixels * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0))
    if "WindowCenter" in one:
        centre, width = (float(v[0] if one[n].VM > 1 else v) for n in ("WindowCenter", "WindowWidth") for v in [one[n].value])
        y = np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    else:
        low, high = np.quantile(x, [0.001, 0.999])
        y = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray((1 - y if one.PhotometricInterpretation == "MONOCHROME1" else y) * 255)


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    if not ODD_DICOM.exists():
        pytest.skip("needs ../shared/data")
    with tarfile.open(ODD_DICOM) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMED)
def test_named_odd_dicom_files_are_what_pydicom_shows(odd: dict[str, bytes], name: str) -> None:
    data = next(data for path, data in sorted(odd.items()) if Path(path).name == name)
    shown = decode(data).picture
    expected = reference(dcmread(io.BytesIO(data), force=True))
    assert difference(shown if expected.ndim == 3 else shown.convert("L"), expected) <= SUFFICIENT


def test_what_pydicom_plainly_reads_is_refined(odd: dict[str, bytes]) -> None:
    """At least 90% of the files whose `pixel_array` works; none takes over 10 s."""
    refined, refused = outcomes(odd, lambda data: dcmread(io.BytesIO(data)).pixel_array)
    assert refined > 70
    assert refined / (refined + len(refused)) >= 0.9, refused


WINDOW: dict[str, Any] = {"WindowCenter": 16500, "WindowWidth": 700}


def test_elements_that_anonymisers_leave_empty_are_as_good_as_absent() -> None:
    own, windowed = grey(dataset(RAMP)), grey(dataset(RAMP, **WINDOW))
    for empty in ({"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 16500, "WindowWidth": None}, {"WindowCenter": "", "WindowWidth": ""}):
        assert np.array_equal(grey(dataset(RAMP, **empty)), own)
    assert np.array_equal(grey(dataset(RAMP, VOILUTFunction="", **WINDOW)), windowed)
    assert np.array_equal(grey(dataset(RAMP, VOILUTSequence=Sequence([Dataset()]), **WINDOW)), windowed)
    assert np.array_equal(grey(dataset(RAMP, ModalityLUTSequence=Sequence([Dataset()]), RescaleSlope=None, RescaleIntercept=None)), own)
    frames = dataset(np.stack([RAMP, RAMP]), NumberOfFrames=2, **WINDOW)
    blank, group = Dataset(), Dataset()
    blank.WindowCenter = blank.WindowWidth = None
    group.FrameVOILUTSequence = Sequence([blank])
    frames.PerFrameFunctionalGroupsSequence = Sequence([group, group])
    assert np.array_equal(grey(frames), windowed), "an empty window of a frame does not hide the file's"


def test_half_a_rescale_is_a_rescale() -> None:
    assert np.array_equal(grey(dataset(RAMP, RescaleIntercept=-1000, **WINDOW | {"WindowCenter": 15500})), grey(dataset(RAMP, **WINDOW)))
    whole: dict[str, Any] = {"RescaleSlope": 2, "WindowCenter": 33000, "WindowWidth": 1400}
    assert np.array_equal(grey(dataset(RAMP, **whole)), grey(dataset(RAMP, RescaleIntercept=0, **whole)))


def test_the_order_of_planes_says_nothing_of_jpeg_and_may_be_missing() -> None:
    pixels = np.asarray(scene())
    for planes in (0, 1):
        one = dataset(pixels, "YBR_FULL_422", JPEGBaseline8Bit, PlanarConfiguration=planes)
        one.PixelData = encapsulate([encoded(scene(), "JPEG", quality=95)])
        assert difference(decode(written(one)).picture, pixels) < 2 * SUFFICIENT, planes
    one = dataset(pixels, "RGB")
    del one.PlanarConfiguration
    assert difference(decode(written(one)).picture, pixels) == 0


def test_padding_that_is_written_without_its_sign_is_found() -> None:
    padded = (RAMP.astype(np.int32) - 16500).astype(np.int16)
    padded[:10] = -2000
    one = dataset(padded)
    one.add_new("PixelPaddingValue", "US", 65536 - 2000)
    shown = grey(one)
    assert (shown[:10] == 0).all() and np.array_equal(shown[10:], window(padded[10:]))


def test_a_palette_of_16_bits_that_holds_numbers_of_8_is_as_bright_as_they_say() -> None:
    indices = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    one = dataset(indices, "PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        one.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [64, 0, 16])
        one.add_new(f"{name}PaletteColorLookupTableData", "OW", (np.arange(64, dtype="<u2") * 4).tobytes())
    assert np.array_equal(grey(one)[0], np.arange(64) * 4)


def test_frames_of_single_bits_need_not_end_with_a_byte() -> None:
    frames = np.random.default_rng(0).integers(0, 2, (3, 11, 13), np.uint8)
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    one = dataset(frames, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed + b"\0" * (len(packed) % 2))
    shown = [np.asarray(found.picture)[..., 0] for found in decode_frames(written(one), "all")]
    assert np.array_equal(np.stack(shown), frames * 255)


def test_a_kind_in_small_letters_is_known() -> None:
    assert np.array_equal(grey(dataset(RAMP, "monochrome1")), 255 - window(RAMP))


def test_a_window_on_a_mammogram_of_28_million_pixels_takes_no_more_memory_than_its_own_range() -> None:
    values = np.add.outer(np.arange(1000, dtype=np.uint16), np.arange(1000, dtype=np.uint16))
    data = written(dataset(values, WindowCenter=900, WindowWidth=1500, RescaleSlope=1, RescaleIntercept=0))
    decode(data)  # what is imported and kept counts once
    tracemalloc.start()
    try:
        decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 16 * values.size
