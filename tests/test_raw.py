"""Listings: the label, group and attributes of each raw file, or the reason why it is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stages.dataset.card import Card, read_card
from stages.dataset.raw import Listing, list_files, read_csv, read_listing, without_names
from stages.diffusion.prompts import render_prompts
from stages.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
CARD: dict[str, Any] = {
    "name": "x", "title": "X", "licence": "none", "citation": "none", "modality": "drawing",
    "classes": {"a": {"title": "ague"}, "b": {"title": "boil"}},
    "prompts": {key: ["a picture of {title}"] for key in ("base", "a", "b")},
    "risk": {"low": 0.1, "high": 0.5},
}  # fmt: skip
ONEHOT = {"kind": "onehot", "table": "truth.csv", "file": "image", "suffix": ".jpg", "labels": {"A": "a", "B": "b"}}


def listed(raw: Path, layout: dict[str, Any], **changes: object) -> Listing:
    return read_listing(Card.model_validate(CARD | {"layout": layout} | changes), raw, list_files(raw))


def images(raw: Path, *names: str) -> None:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"")


def deep(folder: Path, levels: int) -> int:
    """Make `levels` folders with names of 200 letters one in the other, whose path no call of the system takes; a descriptor of the last."""
    inside = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 200, dir_fd=inside)
        outer, inside = inside, os.open("d" * 200, os.O_RDONLY, dir_fd=inside)
        os.close(outer)
    return inside


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    os.close(deep(tmp_path, 21))
    with pytest.raises(UserError, match="shorten the names of the folders"):
        list_files(tmp_path)


def test_a_file_whose_path_is_too_long_is_left_out_like_any_other(tmp_path: Path) -> None:
    inside = deep(tmp_path, (4090 - len(str(tmp_path))) // 201)
    os.close(os.open("f" * 250, os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    os.close(inside)
    found = listed(tmp_path, {"kind": "folders", "labels": {"A": "a", "B": "b"}})
    assert list(found.refused.values()) == [f"label {'d' * 200!r} is not in the card"]


def test_a_folder_that_cannot_be_read_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, "a/1.png")
    walk = os.walk
    monkeypatch.setattr("os.walk", lambda top, onerror: (onerror(PermissionError(13, "Permission denied", f"{top}/a")), walk(top))[1])
    with pytest.raises(UserError, match=r"a cannot be read .Permission denied.: its files would be missing"):
        list_files(tmp_path)


def test_a_second_table_without_a_common_name_stops(tmp_path: Path) -> None:
    images(tmp_path, "0.jpg")
    (tmp_path / "truth.csv").write_text("image,A,B\n0,1,0\n")
    (tmp_path / "more.csv").write_text("image,lesion\n0.jpg,L1\n")
    with pytest.raises(UserError, match="no value of image in common"):
        listed(tmp_path, ONEHOT | {"metadata": "more.csv", "group": "lesion"})


def test_reasons_in_reports_quote_no_names() -> None:
    assert (
        without_names(f"label {'DOE_JANE'!r} is not in the card")
        == without_names('label "O\'Neil" is not in the card')
        == "label … is not in the card"
    )


def test_a_column_per_class_labels_a_file_and_two_marks_or_none_do_not(tmp_path: Path) -> None:
    images(tmp_path, *(f"img/{k}.jpg" for k in range(7)))
    (tmp_path / "truth.csv").write_text("image,A,B,UNK\n0,1.0,0.0,0.0\n1,0,1,0\n2,1,1,0\n3,0,0,1\n4,0.5,0.5,0\n5,,1,0\n9,1,0,0\n")
    listing = listed(tmp_path, ONEHOT)
    assert listing.rows[["file", "label"]].to_numpy().tolist() == [["img/0.jpg", "a"], ["img/1.jpg", "b"]]
    assert listing.refused == {
        "truth.csv": "metadata table named by the card, not an image",
        "img/2.jpg": "several label columns are 1: A, B",
        "img/3.jpg": "none of the label columns A, B is 1",
        "img/4.jpg": "column A holds '0.5', not 0 or 1",
        "img/5.jpg": "column A holds '', not 0 or 1",
        "img/6.jpg": "not in the table",
    }
    assert listing.without_file == 1


def test_endings_that_the_table_leaves_out_may_differ(tmp_path: Path) -> None:
    images(tmp_path, "x/0.jpg", "x/1.dcm", "x/2.jpg", "y/2.dcm", "x/3.dcm", "y/3.png")
    (tmp_path / "truth.csv").write_text("image,A,B\n0,1,0\n1,0,1\n2,1,0\n3,1,0\n")
    listing = listed(tmp_path, ONEHOT)
    assert listing.rows[["file", "label"]].to_numpy().tolist() == [["x/0.jpg", "a"], ["x/1.dcm", "b"], ["x/2.jpg", "a"]]
    assert set(listing.refused) == {"truth.csv", "y/2.dcm", "x/3.dcm", "y/3.png"} and listing.without_file == 1  # which of two nobody knows


def test_a_second_table_gives_what_the_first_has_not(tmp_path: Path) -> None:
    images(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    (tmp_path / "truth.csv").write_text("image,A,B\n0,1,0\n1,0,1\n2,0,1\n")
    (tmp_path / "more.csv").write_text("image,A,patient,years\n0,0,P,40.0\n2,0,Q,1\n2,0,R,1\n8,1,S,3\n")
    listing = listed(tmp_path, ONEHOT | {"metadata": "more.csv", "group": "patient"}, attributes={"age": "years"})
    known = listing.rows[["file", "label", "group", "age"]].fillna("?").to_numpy().tolist()
    assert known == [["0.jpg", "a", "P", 40.0], ["1.jpg", "b", "?", "?"]]  # of the column A that both have, the first table's counts
    assert listing.refused["2.jpg"] == "the table has 2 rows that differ for this file"
    assert set(listing.refused) == {"truth.csv", "more.csv", "2.jpg"}


@pytest.mark.parametrize(
    ("truth", "more", "told"),
    [
        ("image,A\n0,1\n", "image,patient\n0,P\n", r"truth.csv and .*more.csv has no column\(s\) B"),
        ("image,A,B\n0,1,0\n", "name,patient\n0,P\n", "more.csv has no column image"),
        ("image,A,B\n0,1,0\n", None, "layout.metadata 'more.csv' is not there"),
    ],
)
def test_tables_that_do_not_fit_the_card_are_named(tmp_path: Path, truth: str, more: str | None, told: str) -> None:
    images(tmp_path, "0.jpg")
    (tmp_path / "truth.csv").write_text(truth)
    if more:
        (tmp_path / "more.csv").write_text(more)
    with pytest.raises(UserError, match=told):
        listed(tmp_path, ONEHOT | {"metadata": "more.csv", "group": "patient"})


def test_isic2019_is_read_as_it_is_handed_out(tmp_path: Path) -> None:
    """The two tables with the header and the kinds of rows of the real ones."""
    images(tmp_path, *(f"ISIC_2019_Training_Input/ISIC_000{k}.jpg" for k in range(4)))
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n"
        "ISIC_0000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\nISIC_0001,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0\n"
        "ISIC_0002,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0\nISIC_0003,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0\n"
    )  # fmt: skip
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_0000,55.0,anterior torso,,female\n"
        "ISIC_0001,30.0,,HAM_1,\nISIC_0002,40.0,lower extremity,HAM_2,male\nISIC_0003,,,,\n"
    )  # fmt: skip
    card = read_card(ROOT / "data/isic2019.yaml")
    listing = read_listing(card, tmp_path, list_files(tmp_path))
    assert listing.rows["label"].tolist() == ["nv", "akiec", "df"]
    assert listing.rows["group"].isna().tolist() == [True, False, False] and set(listing.rows["group"][1:]) == {"HAM_1", "HAM_2"}
    assert listing.rows["age"].tolist() == [55.0, 30.0, 40.0] and listing.rows["site"].fillna("?").tolist() == [
        "anterior torso",
        "?",
        "lower extremity",
    ]
    assert "none of the label columns" in listing.refused["ISIC_2019_Training_Input/ISIC_0003.jpg"]
    prompts = render_prompts(card.prompts["df"], {**listing.rows.iloc[2]}, card.classes["df"].title)
    assert prompts[0] == "a dermoscopic image of dermatofibroma on the lower extremity of a 40 year old male"


def test_a_flat_folder_gives_every_file_the_only_class(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "deep/er/2.dcm")
    one = {"classes": {"unlabelled": {"title": "an image"}}, "prompts": {key: ["{title}"] for key in ("base", "unlabelled")}}
    listing = listed(tmp_path, {"kind": "flat"}, **one)
    assert listing.rows.to_numpy().tolist() == [["1.png", "unlabelled", None], ["deep/er/2.dcm", "unlabelled", None]]
    assert listing.refused == {}


def test_the_nearest_folder_that_is_a_class_gives_the_label(tmp_path: Path) -> None:
    images(tmp_path, "A/patient1/1.png", "A/B/2.png", "train/B/p/q/3.png", "C/p/4.png", "5.png")
    listing = listed(tmp_path, {"kind": "folders", "labels": {"A": "a", "B": "b"}})
    assert listing.rows[["file", "label"]].to_numpy().tolist() == [["A/B/2.png", "b"], ["A/patient1/1.png", "a"], ["train/B/p/q/3.png", "b"]]
    assert listing.refused == {"5.png": "lies in no class folder", "C/p/4.png": "label 'p' is not in the card"}


def test_a_table_may_give_the_patients_of_class_folders(tmp_path: Path) -> None:
    images(tmp_path, "A/1.png", "B/2.png", "B/3.png")
    (tmp_path / "who.csv").write_text("file,patient\nA/1.png,P\n2.png,P\n")
    listing = listed(tmp_path, {"kind": "folders", "labels": {"A": "a", "B": "b"}, "table": "who.csv", "file": "file", "group": "patient"})
    assert listing.rows[["label", "group"]].to_numpy().tolist() == [["a", "P"], ["b", "P"]]
    assert listing.refused["B/3.png"] == "not in the table"


def test_rows_that_end_early_are_read_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1, 2 \n3\n")
    assert read_csv(tmp_path / "t.csv").to_numpy().tolist() == [["1", "2"], ["3", ""]]


def test_a_table_of_a_european_excel_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1;2,5\n")
    assert read_csv(tmp_path / "t.csv").to_numpy().tolist() == [["1", "2,5"]]


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="not a regular file"):
        read_csv(tmp_path / "t.csv")


TABLE = {"kind": "csv", "table": "t.csv", "file": "image", "label": "dx", "labels": {"A": "a", "B": "b"}}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("image,dx\nimg\\1.png,A\n", "img/1.png"),
        ("image,dx\n/img/1.png,A\n", "img/1.png"),
        ("image,dx\n1.PNG,A\n", "img/1.png"),
        ("image,dx\nb\u00e9b\u00e9.png,A\n", "be\u0301be\u0301.png"),
        ("image, dx\n1.png, A\n", "1.png"),
        ("image\tdx\n1.png\tA\n", "1.png"),
        ("image;dx;age, years\n1.png;A;3\n", "1.png"),
        ("image,dx\n1.png,A,\n", "1.png"),
    ],
)
def test_names_and_tables_as_other_systems_write_them_are_found(tmp_path: Path, text: str, name: str) -> None:
    images(tmp_path, name)
    (tmp_path / "t.csv").write_text(text)
    found = listed(tmp_path, TABLE)
    assert found.rows["label"].tolist() == ["a"] and found.without_file == 0, found.refused


def test_what_fits_two_files_is_not_guessed(tmp_path: Path) -> None:
    images(tmp_path, "x/1.png", "y/1.png", "y/2.png")
    (tmp_path / "t.csv").write_text("image,dx\nz/1.png,A\n2.PNG,B\n")
    found = listed(tmp_path, TABLE)
    assert found.rows["file"].tolist() == ["y/2.png"] and found.without_file == 1


def test_a_row_whose_folder_is_here_is_not_given_a_file_of_another_folder(tmp_path: Path) -> None:
    images(tmp_path, "benign/2.png", "malignant/1.png")
    (tmp_path / "t.csv").write_text("image,dx\nbenign/1.png,A\nBENIGN/2.png,B\n")
    found = listed(tmp_path, TABLE)
    assert found.rows[["file", "label"]].to_numpy().tolist() == [["benign/2.png", "b"]] and found.without_file == 1


@pytest.mark.parametrize(("wanted", "there"), [("benign/img/1.png", "malignant/img/1.png"), ("train/images/1.PNG", "test/images/1.png")])
def test_nested_folders_of_one_name_are_told_apart(tmp_path: Path, wanted: str, there: str) -> None:
    images(tmp_path, there, wanted.replace("1", "2").lower())
    (tmp_path / "t.csv").write_text(f"image,dx\n{wanted},A\n")
    assert listed(tmp_path, TABLE).without_file == 1
    (tmp_path / "t.csv").write_text(f"image,dx\n/elsewhere/of/another/{there.upper()},A\n")
    assert listed(tmp_path, TABLE).rows["file"].tolist() == [there]


def test_a_file_that_a_row_names_exactly_is_no_other_rows(tmp_path: Path) -> None:
    images(tmp_path, "malignant/1.png")
    (tmp_path / "t.csv").write_text("image,dx\nbenign/1.png,A\nmalignant/1.png,B\n")
    found = listed(tmp_path, TABLE)
    assert found.rows["label"].tolist() == ["b"] and found.without_file == 1


def test_more_fields_than_the_header_names_are_refused_and_not_shifted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,dx\n1.png,A,left\n2.png,B,right\n")
    with pytest.raises(UserError, match="more columns than its first line names"):
        read_csv(tmp_path / "t.csv")
