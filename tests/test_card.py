"""Cards: what is wrong in one is said with the key and an example; a draft is made from a look at a folder."""

from __future__ import annotations

import copy
import os
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stages import card as command
from stages.dataset.card import EXAMPLE, Card, Class, Layout, Part, Ratio, Risk, Symptom, read_card, read_card_to_learn
from stages.dataset.columns import guess
from stages.dataset.draft import classes_of, medmnist_draft, slug, write_draft
from stages.dataset.look import look
from stages.dataset.medmnist_sets import SETS
from stages.diffusion.prompts import render_prompts
from stages.runtime.errors import UserError

ROOT = Path(__file__).parents[1]
#: Where each part of a card stands in the example.
PARTS: dict[type[BaseModel], tuple[str, ...]] = {
    Card: (),
    Layout: ("layout",),
    Class: ("classes", "mel"),
    Symptom: ("symptoms", "changing"),
    Ratio: ("symptoms", "changing", "present", "mel"),
    Risk: ("risk",),
}
KEYS = [(*place, key) for part, place in PARTS.items() for key in part.model_fields]
REQUIRED = [(*place, key) for part, place in PARTS.items() for key, field in part.model_fields.items() if field.is_required()]


def at(card: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """The part of a card at a place."""
    for key in place:
        card = card[key]
    return card


def told(tmp_path: Path, card: object) -> str:
    """What is said of a wrong card."""
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(card))
    with pytest.raises(UserError) as error:
        read_card(path)
    return str(error.value)


def example_in(message: str) -> dict[str, Any]:
    """What a message shows as an example, as YAML."""
    shown: dict[str, Any] = yaml.safe_load(message.split("Example: ")[1])
    return shown


def test_the_example_is_valid_and_shows_every_key() -> None:
    Card.model_validate(EXAMPLE)
    assert set(PARTS) == set(Part.__subclasses__())
    for part, place in PARTS.items():
        assert set(at(EXAMPLE, place)) == set(part.model_fields), part


@pytest.mark.parametrize("place", REQUIRED, ids=".".join)
def test_a_missing_key_is_named_with_an_example_that_is_valid_in_its_place(tmp_path: Path, place: tuple[str, ...]) -> None:
    card = copy.deepcopy(EXAMPLE)
    del at(card, place[:-1])[place[-1]]
    message = told(tmp_path, card)
    assert f"x.yaml: {'.'.join(place)}: is missing" in message
    at(card, place[:-1]).update(example_in(message))
    Card.model_validate(card)


@pytest.mark.parametrize("place", KEYS, ids=".".join)
def test_a_value_of_the_wrong_type_is_named_with_an_example_that_is_valid_in_its_place(tmp_path: Path, place: tuple[str, ...]) -> None:
    card = copy.deepcopy(EXAMPLE)
    at(card, place[:-1])[place[-1]] = [[3]]
    message = told(tmp_path, card)
    assert f"x.yaml: {'.'.join(place)}" in message
    at(card, place[:-1]).update(example_in(message))
    Card.model_validate(card)


@pytest.mark.parametrize("place", PARTS.values(), ids=lambda place: ".".join(place) or "card")
def test_an_unknown_key_is_named_with_those_that_may_stand_there(tmp_path: Path, place: tuple[str, ...]) -> None:
    card = copy.deepcopy(EXAMPLE)
    at(card, place)["lable"] = "dx"
    message = told(tmp_path, card)
    assert f"x.yaml: {'.'.join((*place, 'lable'))}: is not a known key; known are {', '.join(at(EXAMPLE, place))}" in message
    del at(card, place)["lable"]
    at(card, place).update(example_in(message))
    Card.model_validate(card)


def test_a_wrong_kind_says_which_there_are(tmp_path: Path) -> None:
    message = told(tmp_path, EXAMPLE | {"layout": EXAMPLE["layout"] | {"kind": "folder"}})
    for kind in get_args(Layout.model_fields["kind"].annotation):
        assert f"'{kind}'" in message
    assert "layout.kind: 'folder' is not one of" in message and message.endswith("Example: kind: csv")


def test_the_example_takes_the_name_of_the_readers_own_class(tmp_path: Path) -> None:
    card = copy.deepcopy(EXAMPLE)
    card["classes"]["wart"] = {"title": 3}
    card["layout"]["labels"]["W"] = "wart"
    assert "classes.wart.title: Input should be a valid string (got 3). Example: title: melan" in told(tmp_path, card)
    card["classes"]["wart"] = "a wart"
    assert example_in(told(tmp_path, card))["wart"].keys() == Class.model_fields.keys()


@pytest.mark.parametrize("text", ["", "3", "[a, b]"])
def test_a_file_that_is_no_card_says_so(tmp_path: Path, text: str) -> None:
    assert "must be a mapping of keys to values" in told(tmp_path, yaml.safe_load(text))


def test_a_label_without_quotes_is_told_to_have_them(tmp_path: Path) -> None:
    message = told(tmp_path, EXAMPLE | {"layout": EXAMPLE["layout"] | {"labels": {0: "nv", 1: "mel"}}})
    assert "layout.labels: the key 0 is no text; put it in quotes. Example: labels: {NV: nv, MEL: mel}" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layout": {"kind": "csv", "labels": {"NV": "nv", "MEL": "mel"}}}, "kind csv needs table, file, label, labels; missing: table, file, label"),
        ({"layout": {"kind": "folders"}}, "missing: labels"),
        ({"layout": {"kind": "folders", "labels": {"NV": "nv", "MEL": "mel"}, "group": "patient"}}, "group can only be read from a table"),
        ({"layout": {"kind": "folders", "labels": {"NV": "nv", "MEL": "mel"}}}, "attributes can only be read from a table"),
        ({"layout": {"kind": "flat"}, "attributes": {}}, r"nothing tells files apart, and classes has \['mel', 'nv'\].*Example: classes: \{unlabelled"),
        ({"layout": {"kind": "flat", "labels": {"NV": "nv"}}}, "kind flat has no labels"),
        ({"layout": {"kind": "medmnist", "file": "a.npz", "table": "t.csv", "labels": {"0": "nv"}}}, "medmnist takes no table"),
        ({"prompts": {"base": ["a mole"]}}, r"prompts has \['base'\].*Example: prompts: \{base: .*mel: .*nv: "),
        ({"classes": {"nv": {"title": "nevus"}}}, r"they must agree. Example: labels: \{nv: nv\}"),
        ({"risk": {"low": 0.1, "high": 0.3, "prior": {"dff": 0.01}}}, r"prior names unknown class\(es\) \['dff'\].*Example: risk: \{prior: \{mel: 0.01\}\}"),
        ({"prompts": EXAMPLE["prompts"] | {"mel": ["{title:d}"]}}, r"prompts.mel: \['title:d'\] cannot be filled in; .* title, .*Example: prompts: \{base:"),
        ({"prompts": EXAMPLE["prompts"] | {"mel": ["{title!x}"]}}, r"prompts.mel: \['title!x'\]"),
        ({"prompts": EXAMPLE["prompts"] | {"mel": ["{title"]}}, r"prompts.mel: \['\{title'\]"),
        ({"prompts": EXAMPLE["prompts"] | {"mel": ["{}"]}}, r"prompts.mel: \[''\]"),
        ({"symptoms": {"a": EXAMPLE["symptoms"]["changing"] | {"present": {"x": EXAMPLE["symptoms"]["changing"]["present"]["mel"]}}}},
         r"symptoms.a names unknown class\(es\) \['x'\].*Example: symptoms: \{a: \{present: \{mel: "),
        ({"risk": {"low": 0.1, "high": 0.3, "prior": {"df": 1.15}}}, "risk.prior.df"),
        ({"risk": {"low": 0.4, "high": 0.3}}, "risk: risk cut-offs need low < high. Example: risk: {low: 0.05"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_each_other_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert re.search(expected, told(tmp_path, EXAMPLE | changes))


def test_one_class_can_be_looked_at_but_not_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    flat = {
        "layout": {"kind": "flat"},
        "attributes": {},
        "classes": {"unlabelled": {"title": "an image"}},
        "symptoms": {},
        "risk": {"low": 0.1, "high": 0.2},
    }
    path.write_text(yaml.safe_dump(EXAMPLE | flat | {"prompts": {key: ["{title}"] for key in ("base", "unlabelled")}}))
    assert read_card(path).class_names == ["unlabelled"]
    with pytest.raises(UserError, match="nothing to learn from"):
        read_card_to_learn(path)


# --- the template of MedMNIST


@pytest.mark.parametrize("name", SETS)
def test_the_template_gives_a_complete_card_for_every_set_of_medmnist(name: str) -> None:
    text = write_draft(medmnist_draft(f"{name}.npz"))
    card = Card.model_validate(yaml.safe_load(text))
    assert card.name == name and "not known" not in text
    committed = ROOT / f"data/{name}.yaml"
    assert not committed.exists() or committed.read_text() == text


def test_many_labels_an_image_become_one_and_the_card_says_so() -> None:
    card = look(Path("chestmnist"))
    assert card.labels == {"finding": "finding", "no finding": "no_finding"}
    assert "14 findings made one" in card.title and "Its 14 labels may stand together" in write_draft(card)


# --- drafts from a folder


def draft(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Card, str]:
    """What `python -m stages.card FOLDER` prints, as a card that `read_card` takes, and as text."""
    monkeypatch.setattr("sys.argv", ["card", str(folder)])
    command.main()
    text = capsys.readouterr().out
    path = folder.parent / "draft.yaml"
    path.write_text(text)
    return read_card(path), text


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_class_folders_are_found_below_train_and_test_and_above_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{part}/{label}/patient{k}/{k}.dcm" for part in ("train", "test") for label in ("Normal", "Optic glioma") for k in range(3)]
    folder = files(tmp_path / "My MRI", *names, "train/readme.txt")
    (folder / names[0]).write_bytes(bytes(128) + b"DICM")
    card, text = draft(folder, capsys, monkeypatch)
    assert card.name == "my_mri" and card.layout.kind == "folders"
    assert card.layout.labels == {"Normal": "normal", "Optic glioma": "optic_glioma"}
    assert [name for name, kind in card.classes.items() if kind.normal] == ["normal"]
    assert "Normal: normal  # 6 files" in text and "13 files: 12 with a class, 1 left out; by ending .dcm 12; 1 are DICOM." in text
    assert "no patient column found" in text and "folders within the class folders" in text and "tags are not read" in text


def test_a_table_tells_file_label_patient_and_attributes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "moles", *(f"img/{k}.jpg" for k in range(40)))
    pd.DataFrame({
        "image_id": range(40), "width": 600, "Diagnosis": ["nevus", "melanoma", "nevus", "unknown"] * 10, "lesion_id": [f"L{k // 2}" for k in range(40)],
        "patientId": [f"P{k // 4}" for k in range(40)], "ageApprox": [str(k) for k in range(39)] + [""], "gender": ["m", "F"] * 20,
        "anatom_site": ["back", "leg"] * 20,
    }).to_csv(folder / "meta.csv", index=False)  # fmt: skip
    card, text = draft(folder, capsys, monkeypatch)
    layout = card.layout
    assert (layout.kind, layout.table, layout.file, layout.suffix, layout.label) == ("csv", "meta.csv", "image_id", ".jpg", "Diagnosis")
    assert layout.group == "patientId" and card.attributes == {"age": "ageApprox", "sex": "gender", "site": "anatom_site"}
    assert card.layout.labels == {"melanoma": "melanoma", "nevus": "nevus"}
    assert "nevus: nevus  # 20 files" in text and "10: label 'unknown' is not in the card" in text and "licence: 'not known" in text


def test_one_hot_columns_and_a_second_table_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "isic", *(f"ISIC_{k}.jpg" for k in range(30)))
    image = [f"ISIC_{k}" for k in range(30)]
    truth = pd.DataFrame({"image": image} | {name: [float(k % 3 == i) for k in range(30)] for i, name in enumerate(("MEL", "NV", "DF"))})
    truth.to_csv(folder / "truth.csv", index=False)
    pd.DataFrame({"image": image, "age_approx": 40.0, "lesion_id": [f"L{k // 2}" for k in range(30)]}).to_csv(folder / "more.csv", index=False)
    card, text = draft(folder, capsys, monkeypatch)
    assert (card.layout.kind, card.layout.table, card.layout.metadata) == ("onehot", "truth.csv", "more.csv")
    assert card.layout.group == "lesion_id" and card.attributes == {"age": "age_approx"}
    assert "MEL: mel  # 10 files" in text


def test_a_table_without_patients_says_what_columns_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(tmp_path / "x", *(f"{k}.png" for k in range(8)))
    pd.DataFrame({"name": [f"{k}.png" for k in range(8)], "kind": ["ill", "well"] * 4}).to_csv(folder / "t.csv", index=False)
    card, text = draft(folder, capsys, monkeypatch)
    assert card.layout.label == "kind" and card.layout.suffix == ""
    assert "no patient column found among name, kind" in text and "Add `normal: true`" in text


def test_images_alone_make_a_flat_card(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    card, text = draft(files(tmp_path / "2024", "a.png", "b.jpg"), capsys, monkeypatch)
    assert card.layout.kind == "flat" and list(card.classes) == ["unlabelled"] and card.name == "data_2024"
    assert "No labels found" in text


def test_folders_that_hold_few_of_the_images_are_no_classes_and_odd_names_do_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(
        tmp_path / "x", *(f"{k}.png" for k in range(9)), "old/1.png", "copy/1.png", os.fsdecode(b"odd\xff.png"), os.fsdecode(b"odd\xff.csv")
    )
    (folder / "torn.csv").write_text("file,dx\n")
    card, text = draft(folder, capsys, monkeypatch)
    assert card.layout.kind == "flat" and "14 files: 14 with a class" in text


def test_where_labels_may_be_is_said_of_images_without(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "x", *(f"{kind}_{k}.png" for kind in ("mel", "nevus") for k in range(4)), "labels.xlsx")
    (folder / "marks.csv").write_text("id,a,b\n" + "".join(f"mel_{k},{k // 2},{k % 2}\n" for k in range(4)))
    (folder / "other.csv").write_text("id,dx\n1,mel\n2,nv\n")
    card, text = draft(folder, capsys, monkeypatch)
    assert card.layout.kind == "flat" and "labels.xlsx was not read: save its sheet as CSV UTF-8" in text
    assert "marks.csv was not used: its column id names files" in text and "other.csv was not used: no column of it names the images (id, dx)" in text
    assert "The files' names begin with mel, nevus" in text


def test_a_column_of_0_and_1_is_the_label_where_there_is_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(tmp_path / "x", *(f"{k}.png" for k in range(12)))
    (folder / "t.csv").write_text("image_id,malignant (0/1),age\n" + "".join(f"{k},{k % 2},{40 + k}\n" for k in range(12)))
    card, _ = draft(folder, capsys, monkeypatch)
    assert card.layout.labels == {"0": "no_malignant", "1": "malignant"} and card.classes["no_malignant"].normal and card.attributes == {"age": "age"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_as_excel_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    folder = files(tmp_path / "x", *(f"{k}.png" for k in range(12)))
    rows = "".join(f"{k};{('Nävus', 'Melanom')[k % 2]};{k};{40 + k};{'mw'[k % 2]}\n" for k in range(12))
    (folder / "t.csv").write_bytes(("Datei;Diagnose;Patient;Alter;Geschlecht\n" + rows).encode(encoding))
    card, _ = draft(folder, capsys, monkeypatch)
    assert (card.layout.label, card.layout.group, card.attributes) == ("Diagnose", "Patient", {"age": "Alter", "sex": "Geschlecht"})
    assert set(card.layout.labels) == {"Nävus", "Melanom"}


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (files(tmp_path, "1.png") / "t.csv").write_text("a,b\n1,2,3,4\n5,6,7,8,9\n")
    with pytest.raises(UserError, match=r"t\.csv cannot be read as a table; save it as CSV UTF-8"):
        look(tmp_path)


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UserError, match="none that may be an image"):
        look(files(tmp_path / "x", "readme.md", *names))


def test_what_is_no_folder_and_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist or is no folder"):
        look(tmp_path / "nowhere")
    with pytest.raises(UserError, match="none of MedMNIST's 2D sets"):
        look(files(tmp_path, "mine.npz") / "mine.npz")
    with pytest.raises(UserError, match="give the folder"):
        look(files(tmp_path, "one.png") / "one.png")


@given(st.text(max_size=8))
def test_a_key_is_plain_whatever_the_label(text: str) -> None:
    key = slug(text)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", key) and yaml.safe_load(key) == key and key != "base"


def test_labels_that_only_signs_tell_apart_stay_apart() -> None:
    labels, titles, normal = classes_of(["ER+", "ER-", "Healthy", "healthy ", "良性", "悪性"])
    assert labels["Healthy"] == labels["healthy "] == normal == "healthy"
    assert len(set(labels.values())) == len(titles) == 5 and titles["healthy"] == "Healthy"


@given(st.lists(st.lists(st.text(max_size=4), min_size=3, max_size=3), max_size=12))
def test_guessing_takes_any_table(rows: list[list[str]]) -> None:
    columns = guess(pd.DataFrame(rows, columns=["a", "label", "patient_id"], dtype=str), ["x.png", "0.png", "label"])
    assert columns is None or 0 < columns.matched <= len(rows)


# --- the cards that come with rarelens


def test_attributes_reach_the_prompts_of_a_dermatofibroma() -> None:
    known = {"age": 40.0, "sex": "unknown", "site": "lower leg"}
    for name in ("ham10000", "isic2019"):
        prompts = render_prompts(read_card(ROOT / f"data/{name}.yaml").prompts["df"], known, "dermatofibroma")
        assert prompts[0] == "a dermoscopic image of dermatofibroma on the lower leg of a 40 year old patient"


def test_the_command_prints_the_same_card_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "x", "b/1.png", "a/2.png", "a/3.png")
    _, first = draft(folder, capsys, monkeypatch)
    shutil.copytree(folder, tmp_path / "again" / "x")
    assert draft(tmp_path / "again" / "x", capsys, monkeypatch)[1] == first


@pytest.mark.parametrize("label", ["mel\nanoma", "invasive carcinoma, " * 12, 'said "so"\tand so'])
def test_whatever_stands_in_a_table_the_draft_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    folder = files(tmp_path / "odd", *(f"{k}.png" for k in range(6)))
    rows = [{"image": f"{k}.png", "dx": label if k % 2 else "benign", "age\n(years)": 30 + k, "notes\nmodality: x": "y"} for k in range(6)]
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    (folder / "._metadata.csv").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X\xb0\xff")
    found, text = draft(folder, capsys, monkeypatch)
    assert len(found.classes) == 2 and label.strip() in found.layout.labels and found.attributes["age"] == "age\n(years)", text


def test_pipes_do_not_hold_a_draft_up(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path / "pipes", "nv/1.png", "nv/2.png", "mel/1.png")
    os.mkfifo(folder / "nv/pipe.png")
    assert len(draft(folder, capsys, monkeypatch)[0].classes) == 2
    os.mkfifo(folder / "breastmnist.npz")
    with pytest.raises(UserError, match="not a regular file"):
        look(folder)
