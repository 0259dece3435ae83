"""Decoding: any raster file by its content, frame by frame, within limits; what is refused says why."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from stages.imaging import decode as decoding
from stages.imaging.decode import BLANK, DARK, TINY, Decoded, Refused, decode, decode_frames, is_dicom
from tests.odd_files import outcomes
from tests.repository import ROOT

ODD = ROOT.parent / "shared/data/odd_images.tar"
SUFFICIENT = 2 / 255


def scene(seed: int = 0, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth coloured picture, unlike that of any other seed, with no symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def difference(picture: Image.Image, reference: NDArray[np.generic] | Image.Image) -> float:
    """Mean absolute difference, of 1."""
    return float(np.abs(np.asarray(picture).astype(float) - np.asarray(reference).astype(float)).mean()) / 255


FORMATS: list[tuple[str, str, dict[str, object]]] = [
    ("AVIF", "RGB", {"quality": 95}), ("BMP", "RGB", {}), ("DDS", "RGB", {}), ("DIB", "RGB", {}), ("GIF", "P", {}), ("IM", "RGB", {}),
    ("JPEG", "CMYK", {"quality": 98}), ("JPEG2000", "RGB", {}), ("MSP", "1", {}), ("PCX", "RGB", {}), ("PNG", "LA", {}), ("PPM", "RGB", {}),
    ("SGI", "RGB", {}), ("SPIDER", "F", {}), ("TGA", "RGB", {}), ("WEBP", "RGB", {"lossless": True}), ("XBM", "1", {}),
    ("TIFF", "CMYK", {}), ("TIFF", "1", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "mode", "options"), FORMATS, ids=[f"{k} {m}" for k, m, _ in FORMATS])
def test_every_format_is_known_by_its_content_and_looks_as_drawn(kind: str, mode: str, options: dict[str, object]) -> None:
    picture = scene().convert(mode)
    shown = decode(encoded(picture, kind, **options))
    assert (shown.format, shown.width, shown.height, shown.frames) == (kind, 64, 48, 1)
    expected = Image.fromarray(decoding.window(np.asarray(picture))) if mode == "F" else picture
    limit = 4 / 255 if kind in ("AVIF", "JPEG") else 0
    assert difference(shown.picture, expected.convert("RGB")) <= limit


def test_lab_becomes_the_grey_that_the_standard_says() -> None:
    lightness = Image.linear_gradient("L")
    neutral = Image.new("L", lightness.size, 128)
    pixels = np.asarray(decode(encoded(Image.merge("LAB", (lightness, neutral, neutral)), "TIFF")).picture).astype(int)
    assert np.abs(pixels[128, 0] - 119).max() <= 3  # L* 50 is grey 119 of sRGB


@pytest.mark.parametrize(
    "text",
    ["", "hello", "Name: Jane Roe\n" * 40, "\n\x05 a text that starts like a PCX", "P", "{}", "a,b\n1,2\n", "#define x 1\n", "<svg></svg>",
     "width 100\nheight 100\n", "*  an IMT comment\nwidth 5", "II*", "GIF", "8BPS", "SIMPLE", "\x08 a", "\x02\x00", "0008,0005 ISO_IR 100"],
)  # fmt: skip
def test_text_is_neither_an_image_nor_dicom(text: str) -> None:
    assert not is_dicom(text.encode())
    with pytest.raises(Refused, match=r"not an image|empty file|broken"):
        decode(text.encode())


@pytest.mark.parametrize(
    ("start", "told"),
    [(b"%PDF-1.4\n", "PDF"), (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"), (b"PK\x03\x04", "zip"), (b"\x1f\x8b", "gzip"),
     (b"\x28\xb5\x2f\xfd", "zstd"), (b"\0\0\0\x18ftypheic", "HEIC"), (b"<svg>", "SVG"), (b"\0\0\0\x18ftyphevc", "HEIC"),
     (b"\0\0\0\x18ftypisom", "video"), (b"<!DOCTYPE html>", "web page"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
     (b"\xff\x0a", "JPEG XL"), (b"II*\0\x10\0\0\0CR\2\0", "Canon"), (b"\xef\xbb\xbf<svg>", "SVG"), (b"\0\0\0\x01Bud1", "macOS")],
)  # fmt: skip
def test_what_lies_among_images_is_called_by_its_name(start: bytes, told: str) -> None:
    with pytest.raises(Refused, match=told):
        decode(start + bytes(600))


def animation(kind: str, pictures: list[Image.Image]) -> bytes:
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_middle_and_all_frames(kind: str) -> None:
    pictures = [scene(k).quantize(64).convert("RGB") for k in range(5)]
    data = animation(kind, pictures)
    assert [(d.frame, d.frames) for d in decode_frames(data, "first")] == [(0, 5)]
    assert [(d.frame, d.frames) for d in decode_frames(data, "middle")] == [(2, 5)]
    found = list(decode_frames(data, "all"))
    assert [d.frame for d in found] == [0, 1, 2, 3, 4]
    assert max(difference(d.picture, p) for d, p in zip(found, pictures, strict=True)) < SUFFICIENT


def test_blank_and_tiny_pictures_are_read_and_called_so() -> None:
    blank = Image.new("RGB", (64, 48), "red")
    data = animation("TIFF", [blank, scene(1), Image.new("RGB", (64, 48), "blue"), scene(2)])
    assert [d.unusable for d in decode_frames(data, "all")] == [BLANK, "", BLANK, ""]
    tiny = [decode(encoded(scene().resize(size), kind)).unusable for size in ((1, 1), (7, 40)) for kind in ("PNG", "TIFF", "JPEG")]
    assert tiny == [TINY] * 6 and decode(encoded(scene().resize((8, 8)), "PNG")).unusable == ""


def test_a_few_pixels_without_a_signature_are_no_image() -> None:
    """Any bytes can look like the header of a small TGA."""
    for size in ((1, 1), (7, 40)):
        with pytest.raises(Refused, match="too small to tell an image from other data"):
            decode(encoded(scene().resize(size), "TGA"))
    assert decode(encoded(scene().resize((8, 8)), "TGA")).format == "TGA"


def test_what_transparency_alone_shows_is_seen() -> None:
    """A black stamp or brush: its shape is in the alpha channel."""
    alpha = Image.new("L", (40, 30))
    alpha.paste(255, (10, 5, 30, 20))
    stamp = Image.merge("RGBA", [Image.new("L", (40, 30))] * 3 + [alpha])
    assert np.array_equal(np.asarray(decode(encoded(stamp, "PNG")).picture)[..., 0], 255 - np.asarray(alpha))
    empty = Image.new("RGBA", (40, 30))
    assert decode(encoded(empty, "PNG")).unusable == BLANK and decode(encoded(empty, "PNG")).picture.getpixel((0, 0)) == (0, 0, 0)


def test_a_broken_tail_costs_only_its_own_frames() -> None:
    whole = encoded(scene(0), "GIF", save_all=True, append_images=[scene(1), scene(2)])
    kept = [d.frame for d in decode_frames(whole[: int(len(whole) * 0.9)], "all")]
    assert kept[:1] == [0] and 2 not in kept


def test_limits_hold_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_FRAMES", 3)
    many = [scene(k).quantize(8) for k in range(6)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        with pytest.raises(Refused, match="over 3 frames"):
            decode(animation(kind, many))
    monkeypatch.setattr(decoding, "MAX_WIDE_PIXELS", 64 * 48 - 1)
    with pytest.raises(Refused, match="when unpacked"):
        decode(encoded(scene().convert("I;16"), "PNG"))
    monkeypatch.setattr(decoding, "MAX_SLOW_PIXELS", 64 * 48 - 1)
    with pytest.raises(Refused, match="when unpacked, and DDS is slow to read: save it as PNG"):
        decode(encoded(scene(), "DDS"))
    assert decode(encoded(scene(), "SGI")).format == "SGI"


def test_a_compressed_text_chunk_cannot_fill_the_memory() -> None:
    bomb = PngImagePlugin.PngInfo()
    bomb.add(b"zTXt", b"c\0\0" + zlib.compress(bytes(80_000_000)))
    start = time.perf_counter()
    with pytest.raises(Refused, match="a text or profile in it unpacks to too much"):
        decode(encoded(scene(), "PNG", pnginfo=bomb))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_a_damaged_image_is_told_from_what_never_was_one(kind: str) -> None:
    with pytest.raises(Refused, match=f"it starts as a {kind} file does"):
        decode(encoded(scene(), kind)[:9])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_file_that_was_cut_off_says_so(kind: str) -> None:
    data = encoded(scene(width=320, height=240), kind)
    with pytest.raises(Refused, match="damaged or cut off"):
        decode(data[: len(data) // 2] if kind != "TIFF" else data[:-400])


def tiff(values: NDArray[np.generic], kind: int) -> bytes:
    """An uncompressed TIFF of one sample a pixel; `kind` is its SampleFormat (1 unsigned, 2 signed)."""
    data, (height, width) = values.tobytes(), values.shape
    tags = {256: width, 257: height, 258: 8 * values.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(("dtype", "kind"), [("i1", 2), ("u1", 1), ("<u2", 1), ("<i2", 2), ("<u4", 1), ("<i4", 2)])
def test_whole_numbers_of_a_tiff_have_their_sign(dtype: str, kind: int) -> None:
    limits = np.iinfo(dtype)
    ramp = np.linspace(limits.min, limits.max, 64 * 64).astype(dtype).reshape(64, 64)
    shown = np.asarray(decode(tiff(ramp, kind)).picture)[..., 0].ravel().astype(int)
    assert (np.diff(shown) >= 0).all() and (shown[0], shown[-1]) == (0, 255)


def deep_png(values: NDArray[np.generic]) -> bytes:
    """A PNG of 16 bits a sample, which Pillow does not write in colour; `values` (H, W, channels)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, channels = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_that_uses_the_lower_bits_of_sixteen_is_told(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (32, 32, channels))
    assert decode(deep_png(values)).unusable == "" and decode(deep_png(values >> 4)).unusable == DARK


def test_a_tiff_whose_directories_form_a_ring_ends() -> None:
    data = bytearray(animation("TIFF", [scene(0), scene(1)]))
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    second = int.from_bytes(data[first + 2 + 12 * entries :][:4], "little")
    after = second + 2 + 12 * int.from_bytes(data[second : second + 2], "little")
    data[after : after + 4] = first.to_bytes(4, "little")
    assert [d.frame for d in decode_frames(bytes(data), "all")] == [0, 1]


def test_a_16_bit_tiff_may_say_that_white_is_zero() -> None:
    values = np.tile(np.linspace(0, 40000, 64).astype(np.uint16), (48, 1))
    data = bytearray(encoded(Image.fromarray(values), "TIFF"))
    tag = data.index(struct.pack("<HHI", decoding.WHITE_IS_ZERO, 3, 1))
    data[tag + 8] = 0
    assert difference(decode(bytes(data)).picture, 255 - np.asarray(decode(encoded(Image.fromarray(values), "TIFF")).picture)) < SUFFICIENT


def test_the_pages_of_a_tiff_before_a_broken_one_are_read() -> None:
    data = bytearray(animation("TIFF", [scene(0), scene(1), scene(2)]))
    at = int.from_bytes(data[4:8], "little")
    for _ in range(2):  # where each directory names the next
        at += 2 + 12 * int.from_bytes(data[at : at + 2], "little")
        link, at = at, int.from_bytes(data[at : at + 4], "little")
    data[link : link + 4] = (len(data) - 1).to_bytes(4, "little")  # there is no directory there
    assert [d.frame for d in decode_frames(bytes(data), "all")] == [0, 1]


def test_numbers_that_are_not_finite_do_not_hide_the_others() -> None:
    values = np.asarray(scene().convert("F")).copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = np.asarray(decode(encoded(Image.fromarray(values), "TIFF")).picture)[..., 0]
    assert difference(Image.fromarray(pixels[1:]), decoding.window(values[1:])) < SUFFICIENT


def test_ignored_pixels_have_no_part_in_the_window() -> None:
    values = np.tile(np.arange(100.0), (20, 1))
    values[:10] = -1e6
    shown = decoding.window(values, values < 0)
    assert shown[10:].min() == 0 and shown[10:].max() == 255 and abs(float(shown[10:].mean()) - 127.5) < 2


def test_broken_exif_does_not_cost_the_image() -> None:
    assert decode(encoded(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40)).width == 64


def test_reasons_quote_nothing_from_the_file() -> None:
    for data in (b"P6\nJaneRoe 40\n255\n", b"P5 40 JaneRoe 255 "):
        with pytest.raises(Refused) as told:
            decode(data)
        assert "Jane" not in str(told.value)


def test_ordinary_images_do_not_load_pydicom() -> None:
    shown = (
        "import io, sys; from PIL import Image; from stages.imaging.decode import decode; out = io.BytesIO();"
        "Image.linear_gradient('L').save(out, 'PNG'); decode(out.getvalue()); sys.exit('pydicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", shown], cwd=ROOT).returncode == 0


SEEDS = [
    encoded(scene(), "PNG"), encoded(scene(), "JPEG"), encoded(scene(), "TIFF", compression="tiff_lzw"), animation("GIF", [scene(0), scene(1)]),
    encoded(scene(), "BMP"), encoded(scene(), "TGA"), encoded(scene(), "WEBP"), encoded(scene(), "PCX"), encoded(scene(), "SGI"),
    encoded(scene().convert("I;16"), "PNG"), encoded(scene(), "PPM"), encoded(scene(), "JPEG2000"), encoded(scene().convert("F"), "SPIDER"),
]  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with some bytes changed, a piece cut out or doubled, or its end lost."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 8))):
        head = min(len(changed), 200) if rng.random() < 0.7 else len(changed)  # headers decide most
        changed[int(rng.integers(head))] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
    a, b = sorted(rng.integers(0, len(changed), 2).tolist())
    return bytes([changed, changed[:b], changed[:a] + changed[b:], changed[:b] + changed[a:]][int(rng.choice(4, p=(0.6, 0.2, 0.1, 0.1)))])


def survives(data: bytes) -> bool:
    """Whether some bytes are decoded; a test fails when anything but `Refused` is raised."""
    try:
        frames = list(decode_frames(data, "all"))
    except Refused:
        return False
    assert all(isinstance(d, Decoded) and d.picture.mode == "RGB" and min(d.picture.size) >= 16 for d in frames) and frames
    return True


def test_mutated_images_are_decoded_or_refused() -> None:
    rng = np.random.default_rng(7)
    outcomes = [survives(mutated(SEEDS[k % len(SEEDS)], rng)) for k in range(600)]
    assert 50 < sum(outcomes) < 550


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\0\0\x02\0", b"\x0a\x05\x01\x08", b"RIFF", b"P5 ", b"DDS "]))
def test_any_bytes_are_decoded_or_refused(data: bytes, start: bytes) -> None:
    survives(start + data)


#: Files of odd_images.tar, one of each kind that matters, against Pillow and the transform that the module states.
NAMED = [
    "hopper.bmp", "hopper.gif", "hopper.png", "hopper.ppm", "hopper.sgi", "hopper.ras", "hopper.dds", "hopper.pxr", "hopper.xbm", "hopper.spider",
    "hopper_16bit.pgm", "hopper_be.pfm", "hopper_bpp2.xpm", "hopper_orientation_6.jpg", "hopper_orientation_8.jpg", "frozenpond.mpo", "rgb_trns.png",
    "pil123rgba.qoi", "transparent.sgi", "odd_stride.pcx", "rgb32rle.tga", "m13_gzip.fits", "g4-multi.tiff", "palette.dds", "iss634.webp",
    "bmp/g/pal8v4.bmp", "avif/hopper.avif", "test-card-lossless.jp2", "i_trns.png", "tiff_strip_cmyk_jpeg.tif",
]  # fmt: skip


def reference(data: bytes) -> Image.Image:
    """Pillow's decoding, written apart from `stages.imaging.decode`."""
    opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if opened.mode in ("I", "F", "I;16", "I;16B"):
        values = np.asarray(opened).astype(float)
        low, high = np.quantile(values, [0.001, 0.999])
        return Image.fromarray(np.uint8(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5)).convert("RGB")
    if opened.has_transparency_data:
        rgba = np.asarray(opened.convert("RGBA")).astype(float)
        return Image.fromarray(np.uint8(rgba[..., :3] * rgba[..., 3:] / 255 + 0.5))
    return opened.convert("RGB")


@pytest.fixture(scope="module")
def odd() -> dict[str, bytes]:
    if not ODD.exists():
        pytest.skip("needs ../shared/data")
    with tarfile.open(ODD) as tar:
        return {m.name.removeprefix("odd_images/"): tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]


def named(files: dict[str, bytes], name: str) -> bytes:
    return files.get(name) or next(data for path, data in sorted(files.items()) if Path(path).name == Path(name).name)


@pytest.mark.parametrize("name", NAMED)
def test_named_odd_images_are_what_pillow_shows(odd: dict[str, bytes], name: str) -> None:
    data = named(odd, name)
    shown = decode(data).picture
    assert shown.size == reference(data).size
    assert difference(shown, reference(data)) <= SUFFICIENT


def test_what_pillow_plainly_opens_is_refined(odd: dict[str, bytes]) -> None:
    """At least 90% of what Pillow can load; none takes over 10 s."""
    refined, refused = outcomes(odd, lambda data: Image.open(io.BytesIO(data)).load())
    assert refined > 330
    assert refined / (refined + len(refused)) >= 0.9, refused


@pytest.mark.parametrize("data", [encoded(scene(), "TIFF"), b"\0" * 128 + b"DICM" + bytes(200)])
def test_a_want_of_memory_is_not_the_files_fault(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has done much else hands the file on to a fresh one, so it must hear of it."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.seek", fail)
    monkeypatch.setattr("stages.imaging.dicom.dcmread", fail)
    with pytest.raises(MemoryError):
        decode(data)


def test_windowing_holds_two_arrays_of_floats_at_once_so_that_a_mammogram_fits_a_worker() -> None:
    values = np.add.outer(np.arange(1000), np.arange(1000)).astype(np.uint16)
    tracemalloc.start()
    try:
        found = decoding.window(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == values.shape and peak <= 20 * values.size
