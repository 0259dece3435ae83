"""MedMNIST archives: every image once, in order, one at a time; what is broken says so."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.dataset.card import Card, read_card
from stages.dataset.medmnist import read_images, read_rows, refine_archive
from stages.dataset.raw import list_files, read_listing
from stages.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data/medmnist"
COUNTS = {"train": 5, "val": 2, "test": 3}


def arrays(shape: tuple[int, ...] = (8, 8), labels: int = 1) -> dict[str, NDArray[Any]]:
    """What an archive holds: images of `shape`, and `labels` numbers 0 or 1 for each."""
    rng = np.random.default_rng(0)
    held: dict[str, NDArray[Any]] = {}
    for split, count in COUNTS.items():
        held[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        held[f"{split}_labels"] = rng.integers(0, 2, (count, labels), dtype=np.uint8)
    return held


def saved(path: Path, held: dict[str, NDArray[Any]], compressed: bool = True) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in held.items():
            data = io.BytesIO()
            np.save(data, array)
            archive.writestr(f"{name}.npy", data.getvalue())
    return path


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)], ids=["grey", "colour"])
@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_rows_come_in_one_order(tmp_path: Path, shape: tuple[int, ...], compressed: bool) -> None:
    held = arrays(shape)
    path = saved(tmp_path / "breastmnist.npz", held, compressed)
    rows, pictures = read_rows(path), np.stack(list(read_images(path)))
    whole = np.concatenate([held[f"{split}_images"] for split in COUNTS])
    assert np.array_equal(pictures, whole)
    assert {getattr(x, "mode", x) for x in refine_archive(tmp_path, 8, path.name)} == {"RGB" if len(shape) == 3 else "L"}
    assert rows["frame"].tolist() == list(range(10)) and rows["official_split"].tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    assert rows["label"].tolist() == [str(v) for split in COUNTS for v in held[f"{split}_labels"][:, 0]]


def test_of_many_labels_any_is_a_finding(tmp_path: Path) -> None:
    held = arrays(labels=3)
    held["val_labels"] = np.array([[0, 0, 0], [0, 1, 1]], np.uint8)
    assert read_rows(saved(tmp_path / "chestmnist.npz", held))["label"].tolist()[5:7] == ["no finding", "finding"]


def changed(**own: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in (arrays() | own).items() if array is not None}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (changed(val_labels=None), "no MedMNIST archive: .*val_labels"),
        (changed(val_labels=np.zeros((9, 1), np.uint8)), "val has 2 images and 9 labels"),
        (changed(val_labels=np.zeros((2, 1))), "val_labels is float64"),
        (changed(val_images=np.zeros((2, 8, 8))), "val_images is float64"),
        (changed(val_images=np.zeros((2, 8, 8, 8), np.uint8)), "a 3D set"),
        (changed(val_images=np.zeros((2, 1, 2000), np.uint8)), r"shape \(2, 1, 2000\)"),
        (changed(val_images=np.zeros((2, 8, 0), np.uint8)), r"shape \(2, 8, 0\)"),
        (changed(val_labels=np.array([[None], ["a"]])), "holds objects"),
    ],
)
def test_what_is_no_medmnist_says_what_is_wrong(tmp_path: Path, held: dict[str, NDArray[Any]], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_rows(saved(tmp_path / "x.npz", held))


@pytest.mark.parametrize(
    ("rows", "version", "told"), [(900_000, 1, "says that it has shape"), (10**12, 1, "has 1,000,000,000,000 rows"), (5, 2, r"array format \(2, 0\)")]
)
def test_a_header_that_promises_more_than_there_is_is_not_believed(tmp_path: Path, rows: int, version: int, told: str) -> None:
    head = io.BytesIO()
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}[version]
    write(head, {"descr": "|u1", "fortran_order": False, "shape": (rows, 8, 8)})
    with zipfile.ZipFile(saved(tmp_path / "x.npz", changed(train_images=None)), "a") as archive:
        archive.writestr("train_images.npy", head.getvalue() + bytes(640))
    with pytest.raises(UserError, match=told):
        read_rows(tmp_path / "x.npz")


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\x93NUMPY", b"<html>not found</html>"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"is broken or no \.npz archive"):
        read_rows(tmp_path / "x.npz")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_read_or_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged.npz"
    whole = bytearray(saved(folder / "whole.npz", arrays()).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    try:
        counts = len(read_rows(path)), len(list(read_images(path)))
    except UserError as error:
        event(str(error))
        return
    assert counts[0] == counts[1]


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    held = arrays()
    held["train_images"], held["train_labels"] = np.zeros((4000, 64, 64, 3), np.uint8), np.zeros((4000, 1), np.uint8)
    held["val_images"], held["test_images"] = held["train_images"][:2], held["train_images"][:3]
    path = saved(tmp_path / "x.npz", held)
    del held
    tracemalloc.start()
    assert sum(1 for _ in read_images(path)) == 4005  # 49 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_listing_has_a_row_an_image_and_refuses_the_rest(tmp_path: Path) -> None:
    card = Card.model_validate(read_card(ROOT / "data/breastmnist.yaml").model_dump() | {"name": "x"})
    held = changed(train_labels=np.array([[0], [1], [7], [0], [1]], np.uint8))
    (tmp_path / "deep").mkdir()
    saved(tmp_path / "deep/breastmnist.npz", held)
    (tmp_path / "breastmnist.npz").write_bytes(b"PK")
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"")
    listing = read_listing(card, tmp_path, list_files(tmp_path))
    assert list(listing.rows.columns) == ["file", "frame", "label", "group", "official_split"]
    assert listing.rows["frame"].tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9] and set(listing.rows["file"]) == {"deep/breastmnist.npz"}
    assert listing.rows["label"].tolist()[:2] == ["malignant", "normal_benign"] and listing.rows["group"].isna().all()
    assert "download it again" in listing.refused["breastmnist.npz"] and str(tmp_path) not in listing.refused["breastmnist.npz"]
    assert listing.refused["pneumoniamnist.npz"] == "not the archive that the card's layout.file names, breastmnist.npz"


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "counts"), [("breastmnist", [210, 570]), ("pneumoniamnist", [1583, 4273])])
def test_the_real_archives_are_read_whole(name: str, counts: list[int]) -> None:
    listing = read_listing(read_card(ROOT / f"data/{name}.yaml"), SHARED, list_files(SHARED))
    assert sorted(listing.rows["label"].value_counts()) == counts
    with np.load(SHARED / f"{name}.npz") as archive:
        whole = np.concatenate([archive[f"{split}_images"] for split in COUNTS])
    for k, picture in enumerate(read_images(SHARED / f"{name}.npz")):
        assert np.array_equal(picture, whole[k])
    assert k + 1 == len(listing.rows) == sum(counts)
