"""Refining: whatever lies in the raw folder ends refined or quarantined, de-identified, its copies in one group."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from stages import refine
from stages.dataset.card import Card, read_card
from stages.dataset.raw import list_files, read_listing
from stages.dataset.table import decode as decode_all
from stages.dataset.table import read_table
from stages.imaging.decode import BLANK, TINY, Refused, Unusable, decode, square, window
from stages.imaging.watermark import XMP, encode_marked
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.ids import keyed
from stages.runtime.names import printable
from stages.runtime.params import Refine

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data"
PARAMS = Refine(size=32, frames="first", file_seconds=8, file_memory_mb=900, hash_distance=6, correlation=0.97, max_cluster_share=0.01)
CLASS = {"title": "x"}
CARD: dict[str, Any] = {
    "name": "odd", "title": "Odd", "licence": "none", "citation": "none", "modality": "drawing",
    "layout": {"kind": "csv", "table": "meta.csv", "file": "image", "suffix": "", "label": "dx", "group": "patient",
               "labels": {"A": "a", "B": "b"}},
    "attributes": {"age": "years", "sex": "sex"},
    "classes": {"a": CLASS, "b": CLASS},
    "prompts": {key: ["a picture of {title}"] for key in ("base", "a", "b")},
    "risk": {"low": 0.1, "high": 0.5},
}  # fmt: skip


def blobs(seed: int, size: int = 96) -> NDArray[np.uint8]:
    """A smooth coloured picture, unlike that of any other seed; (size, size, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def encoded(picture: Image.Image | NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **options)
    return out.getvalue()


def bomb() -> bytes:
    """A PNG that says it is 60,000 px square, in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def run_refine(
    monkeypatch: pytest.MonkeyPatch, folder: Path, raw: Path, out: Path, card: dict[str, Any] = CARD, threads: int = 1, **own: object
) -> None:
    """`python -m stages.refine` in this process, with params of its own."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"threads": threads, "refine": {**PARAMS.model_dump(), **own}}
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["refine", "card.yaml", str(raw), str(out)])
    refine.main()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder with a bit of everything."""
    folder = tmp_path_factory.mktemp("raw")
    files: dict[str, bytes] = {}
    rows: list[tuple[str, str, str, str, str]] = []

    def add(name: str, data: bytes, dx: str = "A", patient: str = "", years: str = "40", sex: str = "female") -> None:
        files[name] = data
        rows.append((name, dx, patient, years, sex))

    packed, unpacked = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, tarfile.open(fileobj=unpacked, mode="w") as tar:
        archive.writestr("scan.png", encoded(blobs(22)))
        tar.addfile(tarfile.TarInfo("scan.png"))
    secret = PngImagePlugin.PngInfo()
    secret.add_text("PatientName", "Jane Roe")
    add("Roe_Jane/one.png", encoded(blobs(1), pnginfo=secret), patient="Roe")
    add("Roe_Jane/two.png", encoded(blobs(2)), patient="Roe", years="unknown", sex="")
    add("exact.png", encoded(blobs(3)), patient="P3")
    add("exact_bmp.bmp", encoded(blobs(3), "BMP"), patient="P4")  # the same pixels in another file
    add("p4.png", encoded(blobs(4)), patient="P4")
    add("torn_a.png", encoded(blobs(5)), "A", "P5")
    add("torn_b.png", encoded(blobs(5), compress_level=1), "B", "P6")
    add("near.png", encoded(blobs(6)), patient="P7")
    add("near_mirror.jpg", encoded(Image.fromarray(blobs(6)[:, ::-1].copy()).resize((128, 128)), "JPEG", quality=85), "B", "P8")
    add("p8.png", encoded(blobs(7)), "B", "P8")
    add("cmyk.jpg", encoded(Image.fromarray(blobs(8)).convert("CMYK"), "JPEG"))
    add("grey16.png", encoded(blobs(9)[..., 0].astype(np.uint16) * 8))
    add("alpha.png", encoded(np.dstack([blobs(10), np.tri(96, dtype=np.uint8) * 255])))
    add("palette.gif", encoded(Image.fromarray(blobs(11)).quantize(32), "GIF"))
    add("named.png", encoded(blobs(12), "WEBP"))  # the name lies
    add("frames.gif", encoded(Image.fromarray(blobs(13)).quantize(32), "GIF", save_all=True, append_images=[Image.fromarray(blobs(14)).quantize(32)]))
    add("wart.png", encoded(blobs(15)), "C")
    add("twice.png", encoded(blobs(16)))
    rows.append(("twice.png", "B", "", "40", "female"))
    add("short.jpg", encoded(blobs(17), "JPEG")[:700])
    add("text.png", b"no image at all")
    add("empty.png", b"")
    add("bomb.png", bomb())
    add("blank.png", encoded(np.full((40, 40, 3), 7, np.uint8)), patient="P10")
    add("blank_too.png", encoded(np.full((40, 40, 3), 7, np.uint8)), "B", "P11")
    add("tiny.png", encoded(blobs(18, 7)))
    add("made.png", encode_marked(blobs(20)))
    add("inpainted.webp", encoded(blobs(21), "WEBP", xmp=XMP.replace("/trained", "/compositeWithTrained").encode()))
    add("more.zip", packed.getvalue())
    files["rest.tar"] = unpacked.getvalue()
    rows.append(("never_seen.png", "A", "P9", "1", "male"))
    files["unlisted.png"] = encoded(blobs(19))
    files[".hidden"] = b"x"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    os.symlink("Roe_Jane", folder / "link")
    os.symlink("gone", folder / "dangling")
    (folder / os.fsdecode(b"odd\xff,\n.png")).write_bytes(b"x")
    pd.DataFrame(rows, columns=["image", "dx", "patient", "years", "sex"]).to_csv(folder / "meta.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def refined(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        run_refine(patch, folder, raw, folder / "refined", threads=2)
    return folder / "refined"


def quarantine(folder: Path) -> dict[str, str]:
    table = pd.read_csv(folder / "quarantine.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["file", "reason"] and not table["file"].duplicated().any() and (table["reason"] != "").all()
    return dict(zip(table["file"], table["reason"], strict=True))


def test_every_file_is_refined_or_quarantined_and_none_is_both(raw: Path, refined: Path) -> None:
    left_out = quarantine(refined)
    kept = set(read_table(refined)["source"])
    files = list_files(raw)
    assert {".hidden", "link", "dangling", "meta.csv"} <= set(files)
    assert all((keyed("file", file) in kept) != (printable(file) in left_out) for file in files)
    assert len(files) == len(kept) + len(left_out)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("meta.csv", "metadata table"), (".hidden", "not in the table"), ("unlisted.png", "not in the table"),
        ("wart.png", "label 'C' is not in the card"), ("twice.png", "2 rows that differ"), ("short.jpg", "truncated|broken"),
        ("text.png", "not an image"), ("empty.png", "empty file"), ("bomb.png", "pixels when unpacked"), ("exact_bmp.bmp", "^exact duplicate of [0-9a-f]{16}$"),
        ("torn_a.png", "different labels: a, b"), ("torn_b.png", "different labels: a, b"),
        ("made.png", "marked as AI-generated"), ("inpainted.webp", "marked as AI-generated"),
        ("more.zip", "zip archive or Office document: unpack it first"), ("rest.tar", "not in the table; it is a tar archive: unpack it first"),
        ("link", "not in the table"), ("dangling", "not in the table"), (r"odd\xff,\n.png".replace(r"\n", "\n"), "not UTF-8"),
    ],
)  # fmt: skip
def test_reasons_are_in_plain_words(refined: Path, file: str, told: str) -> None:
    assert pd.Series([quarantine(refined)[file]]).str.contains(told).all(), quarantine(refined)[file]


def test_blank_and_tiny_images_are_refined_marked_and_tie_nobody_together(refined: Path) -> None:
    table = read_table(refined).set_index("source")
    marked = {file: table.loc[keyed("file", file)] for file in ("blank.png", "blank_too.png", "tiny.png")}
    assert [row["unusable"] for row in marked.values()] == [BLANK, BLANK, TINY]
    assert set(table.loc[~table.index.isin([row.name for row in marked.values()]), "unusable"]) == {""}
    assert marked["blank.png"]["group"] == keyed("group", "P10") and marked["blank_too.png"]["group"] == keyed("group", "P11")
    assert read_json(refined / "refined.json")["unusable"] == {BLANK: 2, TINY: 1}


def test_no_name_and_no_metadata_gets_out(raw: Path, refined: Path) -> None:
    table = read_table(refined)
    text = " ".join(map(str, table.drop(columns="image").to_numpy().ravel())) + " ".join((refined / "refined.json").read_text().split())
    for secret in ("Roe", "Jane", "P3", "P8", "near_mirror", "named"):
        assert secret not in text
    for data in table["image"]:
        assert Image.open(io.BytesIO(data)).info == {}
        assert b"Jane" not in data
    assert table["id"].str.fullmatch("[0-9a-f]{16}").all() and table["group"].str.fullmatch("[0-9a-f]{16}").all()


def test_ids_follow_the_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    public = keyed("group", "Roe")
    monkeypatch.setenv("RARELENS_ID_KEY", "a hospital's own")
    assert keyed("group", "Roe") != public
    assert keyed("group", "Roe") != keyed("file", "Roe")


def test_data_sets_of_one_collection_share_its_ids_whatever_their_folders() -> None:
    one, other = (
        refine.name_images(
            pd.DataFrame({"file": [f"{folder}/ISIC_1.jpg", f"{folder}/ISIC_2.jpg"], "frame": 0, "group": ["HAM_7", None]}), False, "isic"
        )
        for folder in ("part_1", "training/images")
    )
    assert one["collection_id"].tolist() == other["collection_id"].tolist() and one["collection_id"].nunique() == 2
    assert one["collection_group"][0] == other["collection_group"][0] is not None and pd.isna(one["collection_group"][1])
    assert not set(one["id"]) & set(other["id"])


def test_a_missing_key_is_told_of_patients_and_not_of_drawings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/meta.csv").write_text("image,dx,patient,years,sex\n")  # nothing to refine: it says so all the same
    for key, phantom in (("", False), ("", True), ("a hospital's own", False)):
        monkeypatch.setenv("RARELENS_ID_KEY", key)
        with pytest.raises(UserError, match="none of the 1 file"):
            run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", CARD | {"phantom": phantom})
        assert ("RARELENS_ID_KEY is not set" in capsys.readouterr().out) == (not key and not phantom)
        assert read_json(tmp_path / "out/refined.json")["public_ids"] == (not key)


def test_groups_join_patients_whose_pictures_are_copies(refined: Path) -> None:
    table = read_table(refined).set_index("source")

    def group(file: str) -> str:
        return str(table.at[keyed("file", file), "group"])

    assert group("Roe_Jane/one.png") == group("Roe_Jane/two.png") == keyed("group", "Roe")
    assert group("exact.png") == group("p4.png")  # P4's own copy of P3's picture is gone, its other picture is not
    assert group("near.png") == group("near_mirror.jpg") == group("p8.png")
    assert group("cmyk.jpg") == keyed("file", "cmyk.jpg")  # no patient given: a group of its own
    assert table["group"].nunique() == len(table) - 4


def test_columns_and_attributes(raw: Path, refined: Path) -> None:
    table = read_table(refined)
    facts = ["age", "sex", "frame", "width", "height", "mode", "format", "file_bytes", "recoded_bytes", "burned_in_text", "unusable"]
    assert list(table.columns) == ["image", "id", "label", "group", "sha256", "source", *facts]
    assert table["id"].is_monotonic_increasing and set(table["label"]) == {"a", "b"}
    rows = table.set_index("source")
    one, two = (rows.loc[keyed("file", f"Roe_Jane/{n}.png")] for n in ("one", "two"))
    assert one["age"] == 40.0 and one["sex"] == "female"
    assert np.isnan(two["age"]) and pd.isna(two["sex"])
    named = rows.loc[keyed("file", "named.png")]
    assert (named["format"], named["mode"], named["width"], named["height"]) == ("WEBP", "RGB", 96, 96)
    assert named["file_bytes"] == (raw / "named.png").stat().st_size
    assert decode_all(table["image"]).shape == (len(table), PARAMS.size, PARAMS.size, 3)


def test_hugging_face_datasets_opens_the_table(refined: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    opened = datasets.load_dataset("parquet", data_files=str(refined / "*.parquet"), split="train", cache_dir=str(tmp_path))
    assert len(opened) == len(read_table(refined)) and opened[0]["image"].size == (PARAMS.size, PARAMS.size)


def test_accounts_and_frames_are_counted(raw: Path, refined: Path) -> None:
    told = read_json(refined / "refined.json")
    assert told["files"] == len(list_files(raw)) == told["files_refined"] + told["files_quarantined"]
    assert (
        told["images"] == told["files_refined"] == len(read_table(refined)) and sum(told["frames_left_out"].values()) == 1
    )  # the second frame of frames.gif
    assert not (refined.parent / ".cache/refine").exists() or not list((refined.parent / ".cache/refine").iterdir())


def test_same_bytes_again_with_another_number_of_processes(raw: Path, refined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_refine(monkeypatch, tmp_path, raw, tmp_path / "again", threads=1)
    names = sorted(path.name for path in refined.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (refined / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_rows_without_a_file_are_counted(refined: Path) -> None:
    assert '"table_rows_without_file": 1' in (refined / "refined.json").read_text()


def test_a_folder_gives_the_label_where_the_card_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, name in enumerate(("A/1.png", "x/B/2.png", "3.png", "C/4.png")):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(encoded(blobs(k)))
    card = CARD | {"layout": {"kind": "folders", "labels": {"A": "a", "B": "b"}}, "attributes": {}}
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", card)
    assert sorted(read_table(tmp_path / "out")["label"]) == ["a", "b"]
    assert quarantine(tmp_path / "out") == {"3.png": "lies in no class folder", "C/4.png": "label 'C' is not in the card"}


def test_the_table_may_lie_deeper_and_name_files_without_folder_or_suffix(tmp_path: Path) -> None:
    (tmp_path / "set/part_1").mkdir(parents=True)
    (tmp_path / "set/part_1/ISIC_1.jpg").write_bytes(b"")
    (tmp_path / "set/part_1/ISIC_2.jpg").write_bytes(b"")
    (tmp_path / "set/part_2").mkdir()
    (tmp_path / "set/part_2/ISIC_2.jpg").write_bytes(b"")
    (tmp_path / "set/meta.csv").write_text("image,dx,patient,split,years,sex\nISIC_1,A,p,train,3,f\nISIC_2,A,p,test,3,f\n")
    layout = CARD["layout"] | {"suffix": ".jpg", "split": "split"}
    listing = read_listing(Card.model_validate(CARD | {"layout": layout}), tmp_path, list_files(tmp_path))
    assert listing.rows[["file", "label", "split"]].values.tolist() == [["set/part_1/ISIC_1.jpg", "a", "train"]]
    assert listing.without_file == 1  # ISIC_2 is the name of two files: which one is meant is not guessed
    assert len(listing.refused) == 3


@pytest.mark.parametrize(
    ("table", "told"),
    [("image,dx\nx.png,A\n", "no column.*patient"), (None, "not there"), ("\xff\xfe", "cannot be read")],
)
def test_a_table_that_does_not_fit_the_card_stops_with_its_columns(tmp_path: Path, table: str | None, told: str) -> None:
    if table is not None:
        (tmp_path / "meta.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(UserError, match=told):
        read_listing(Card.model_validate(CARD), tmp_path, list_files(tmp_path))


def test_a_missing_folder_and_one_with_nothing_usable_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run_refine(monkeypatch, tmp_path, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/meta.csv").write_text("image,dx,patient,years,sex\n")
    with pytest.raises(UserError, match="none of the 1 file"):
        run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out")
    assert len(quarantine(tmp_path / "out")) == 1


def test_alike_by_nature_stops_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "raw/A").mkdir(parents=True)
    (tmp_path / "raw/B").mkdir()
    for k in range(12):
        noisy = np.clip(blobs(0).astype(int) + rng.integers(-3, 4, (96, 96, 3)), 0, 255).astype(np.uint8)
        (tmp_path / f"raw/{'AB'[k % 2]}/{k}.png").write_bytes(encoded(noisy))
    card = CARD | {"layout": {"kind": "folders", "labels": {"A": "a", "B": "b"}}, "attributes": {}}
    with pytest.raises(UserError, match=r"12 of 12 images into one cluster.*raise refine\.correlation"):
        run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", card)
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", card, max_cluster_share=1.0)
    assert read_table(tmp_path / "out")["group"].nunique() == 1


def test_pictures_of_one_patient_may_be_as_alike_as_they_like() -> None:
    pairs = np.array([[i, j] for i in range(30) for j in range(i + 1, 30)])
    refine.refuse_large_cluster(pd.Series(["one"] * 30), pairs, 0.01)
    with pytest.raises(UserError):
        refine.refuse_large_cluster(pd.Series([str(i) for i in range(30)]), pairs, 0.01)


def test_exif_orientation_is_applied_and_dropped() -> None:
    picture = Image.fromarray(np.vstack([blobs(1)[:40], np.zeros((40, 96, 3), np.uint8)]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright = decode(encoded(picture, "PNG", exif=exif)).picture
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(picture), -1))
    assert (upright.width, upright.height) == (80, 96)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_many_bits_are_windowed_not_clipped_to_white(mode: str) -> None:
    ramp = np.tile(np.linspace(1000, 4000, 64), (64, 1))
    data = encoded(ramp.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]), "TIFF")
    pixels = np.asarray(decode(data).picture)[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255 and abs(float(pixels.mean()) - 127.5) < 2
    assert (np.diff(pixels[0].astype(int)) >= 0).all() and (pixels == 255).mean() < 0.05


def test_transparency_lies_over_black_in_every_mode() -> None:
    clear = np.dstack([blobs(1), np.zeros((96, 96), np.uint8)])
    clear[:48, :, 3] = 255
    grey = Image.fromarray(clear).convert("LA")
    palette = Image.fromarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96) % 4, "P")
    palette.putpalette([255, 255, 255, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    for data in (encoded(clear), encoded(grey)):
        pixels = np.asarray(decode(data).picture)
        assert (pixels[48:] == 0).all() and (pixels[:48] > 0).any()
    shown = np.asarray(decode(encoded(palette, transparency=0)).picture)
    assert (shown[:, ::4] == 0).all() and (shown[:, 1::4] == [200, 0, 0]).all()


def test_decode_tells_what_is_wrong() -> None:
    for data, told in ((b"", "empty file"), (b"GIF89a", "broken|not an image"), (bomb(), "pixels when unpacked")):
        with pytest.raises(Refused, match=told):
            decode(data)
    nothing = np.full((20, 20), np.nan, np.float32)
    with pytest.raises(Unusable):
        decode(encoded(nothing, "TIFF"))


@given(arrays(np.float32, (17, 16), elements=st.floats(width=32)))
def test_window_takes_any_numbers(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).any():
        with pytest.raises(Unusable):
            window(values)
        return
    out = window(values)
    assert out.dtype == np.uint8 and out.shape == values.shape
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    assert (np.diff(out[finite][order].astype(int)) >= 0).all()


@settings(deadline=None)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(8, 80))
def test_square_crops_the_centre_and_never_pads(width: int, height: int, size: int) -> None:
    picture = Image.new("RGB", (width, height), (200, 100, 50))
    assert set(square(picture, size).getdata()) == {(200, 100, 50)}
    marked = np.zeros((height, width, 3), np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    marked[top : top + side, left : left + side] = 255
    assert np.asarray(square(Image.fromarray(marked), size)).min() == 255


@pytest.mark.parametrize("card", sorted((ROOT / "data").glob("*.yaml")), ids=lambda p: p.stem)
def test_cards_are_valid_and_name_every_key_that_the_graph_reads(card: Path) -> None:
    assert read_card(card).name == card.stem
    keys = set(yaml.safe_load(card.read_text()))
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values():
        for entry in stage.get("params", []):
            if isinstance(entry, dict):
                wanted = {str(key).split(".")[0] for key in entry.get("data/${dataset}.yaml", [])}
                assert wanted <= keys, "DVC stops at a missing key, even where the card has a default"


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_odd_and_hostile_files_all_end_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(SHARED / "odd_images.tar") as tar:
        tar.extractall(tmp_path / "all", filter="data")
    (tmp_path / "raw/A").mkdir(parents=True)
    for k, path in enumerate(sorted(p for p in (tmp_path / "all").rglob("*") if p.is_file())):
        shutil.copy(path, tmp_path / f"raw/A/{k:03d}{path.suffix}")
    card = CARD | {"layout": {"kind": "folders", "labels": {"A": "a", "B": "b"}}, "attributes": {}}
    run_refine(monkeypatch, tmp_path, tmp_path / "raw", tmp_path / "out", card, threads=2, max_cluster_share=1.0)
    table, left_out = read_table(tmp_path / "out"), quarantine(tmp_path / "out")
    assert len(table) + len(left_out) == len(list_files(tmp_path / "raw")) == 516
    assert not any("0x" in reason for reason in left_out.values())
