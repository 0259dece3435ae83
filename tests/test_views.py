"""The views beside the result: synthetic images, the data, the model's card; each with what it needs and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from app import modelcard, nearest, wording, wording_synthetic
from app.artifacts import Place
from stages.dataset.card import read_card
from stages.dataset.table import read_table, write_table
from stages.imaging.phantoms import CLASSES
from stages.imaging.refining import encode_png
from stages.runtime.files import read_json, write_json, write_text
from tests.test_app import open_page, words
from tests.tiny_root import SIZE, build, drawings, write_lock


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


def add_images(root: Path) -> None:
    """Refined images and a split of one lesion a class; synthetic ones of df: a mirrored copy of its own, one close to its source, one rejected."""
    images = drawings("gallery", 1)[0]
    encoded = [encode_png(image) for image in images]
    real = {label: images[k] for k, label in enumerate(CLASSES)}
    darker = np.asarray(real["nv"] * 0.9, np.uint8)
    rows = [{"id": f"r{label}", "label": label, "group": label, "image": encoded[k]} for k, label in enumerate(CLASSES)]
    write_table(root / "data/refined/phantom/part.parquet", pd.DataFrame(rows))
    write_text(root / "data/splits/phantom.csv", "id,label,group,split,fold\n" + "".join(f"r{c},{c},{c},train,0\n" for c in CLASSES))
    made = [
        {"id": "s1", "accepted": True, "reason": "", "mode": "text2img", "nearest_train_distance": 0.0, "image": encode_png(real["df"][:, ::-1])},
        {"id": "s2", "accepted": True, "reason": "", "mode": "interclass", "nearest_train_distance": 0.05, "image": encode_png(darker)},
        {"id": "s3", "accepted": False, "reason": "judge", "mode": "text2img", "nearest_train_distance": 0.5, "image": encode_png(real["mel"])},
    ]
    made = [{"label": "df", "source": "rnv" if row["mode"] == "interclass" else None, **row} for row in made]
    write_table(root / "data/synthetic/phantom/df/part.parquet", pd.DataFrame(made))


def test_synthetic_images_are_marked_beside_real_ones(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch, "gallery")
    assert not page.exception and "dvc pull" in page.info[0].value
    add_images(root)
    write_json(root / "reports/phantom/audit.json", {"all": {"stops": [], "warnings": ["df, text2img: more copies than chance gives"]}})
    write_text(root / "reports/phantom/audit.md", "# Drawings: audited\n\n![The pairs](audit/pairs_df.png)\n")
    for name in ("pairs_df", "accuracy", "new"):
        path = root / f"reports/phantom/audit/{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    page = open_page(root, monkeypatch, "gallery")
    said = words(page)
    assert not page.exception and "3 drawn, 2 accepted, 1 rejected" in said and wording_synthetic.NO_PATIENT in said
    assert [text.value for text in page.subheader] == [
        "Real, from the training images", "Accepted", "The closest pairs: is one a copy?", "Rejected",
        wording_synthetic.AUDIT["accuracy"][0], "New", f"{wording_synthetic.AUDIT['pairs'][0]} Dermatofibroma.",
    ]  # fmt: skip
    assert any("Dermatofibroma, drawn from words alone: more copies than chance gives." in text.value for text in page.warning)
    assert page.table[0].value.to_numpy().tolist() == [["The judge does not see what was asked for", "1"]]
    captions = [image.caption for group in page.image for image in group.proto.imgs]
    assert captions.count("Real training image") == 2 and captions[captions.index("Real training image") - 1] == "AI-generated"
    assert "Pair 1: distance 0.000; drawn from words alone." in said and "begun from a real image of another diagnosis." in said
    assert all(image.alt for group in page.image for image in group.proto.imgs)


def test_a_licence_may_keep_real_images_from_being_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = build(tmp_path / "root")
    add_images(root)
    write_text(root / "reports/phantom/data.md", "# Drawings\n\n![Images](data.png)\n")
    for path in ("audit/pairs_df", "audit/accuracy", "data", "plots/contact"):
        (root / f"reports/phantom/{path}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / f"reports/phantom/{path}.png")

    def shown(view: str) -> int:
        page = open_page(root, monkeypatch, view)
        assert not page.exception and ("their licence does not permit it" in words(page)) == ("show_images: false" in card.read_text())
        return sum(len(group.proto.imgs) for group in page.image)

    card = root / "data/phantom.yaml"
    before = {view: shown(view) for view in ("gallery", "compare", "data")}
    card.write_text(f"show_images: false\n{card.read_text()}")
    after = {view: shown(view) for view in before}
    assert {view: before[view] - after[view] for view in before} == {"gallery": 6, "compare": 1, "data": 1}


def test_the_closest_training_image_is_found_in_any_turn_and_among_what_was_begun_from(tmp_path: Path) -> None:
    add_images(tmp_path)
    first, second = nearest.closest(Place(tmp_path, "phantom", True), "df", 6)
    assert first.distance == pytest.approx(0, abs=1e-9) and first.mode == "text2img" and 0 < second.distance < 0.1
    refined = read_table(tmp_path / "data/refined/phantom").set_index("id")["image"]
    assert (first.real, second.real) == (refined["rdf"], refined["rnv"])
    assert len(nearest.closest(Place(tmp_path, "phantom", True), "df", 1)) == 1
    assert nearest.closest_real(Place(tmp_path, "phantom", True), "df") is None  # one lesion alone


def test_real_images_of_two_lesions_are_what_a_near_pair_is_held_against(tmp_path: Path) -> None:
    add_images(tmp_path)
    place = Place(tmp_path, "phantom", True)
    one, other = (np.full((SIZE, SIZE, 3), grey, np.uint8) for grey in (100, 151))
    rows = [("a", "x", one), ("b", "x", one), ("c", "y", other)]
    table = pd.DataFrame([{"id": i, "label": "df", "group": g, "image": encode_png(pixels)} for i, g, pixels in rows])
    write_table(tmp_path / "data/refined/phantom/part.parquet", table)
    write_text(tmp_path / "data/splits/phantom.csv", "id,label,group,split,fold\n" + "".join(f"{i},df,{g},train,0\n" for i, g, _ in rows))
    assert nearest.closest_real(place, "df") == pytest.approx(51 / 255)


def test_the_data_report_is_shown_with_its_pictures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data.md" in open_page(root, monkeypatch, "data").error[0].value
    folder = root / "reports/phantom"
    counts = "| class | n |\n|---|---|\n| df | 3 |\n"
    write_text(folder / "data.md", f"# Drawings: the data\n\n- Age tells.\n\n{counts}\n![Images](data.png)\n\nThe ![end](gone.png)\n")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "data.png")
    page = open_page(root, monkeypatch, "data")
    said = words(page)
    assert page.title[0].value == "Drawings: the data" and page.table[0].value.to_numpy().tolist() == [["dermatofibroma", "3"]]
    assert not page.exception and "Age tells." in said and "![" not in said and "gone.png is not here" in said
    assert any("Not as dvc.lock records it" in text.value for text in page.warning)
    (folder / "data.md").unlink()


def test_the_card_says_what_is_met_and_what_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch, "card")
    said = words(page)
    assert not page.exception and not page.error and wording.PHANTOM in said
    assert "80 (70 to 90; n = 60) of 100" in said and "too few lesions" in said and "✗ not met" in said and "✓ met" in said


def test_what_was_not_tested_is_not_met(root: Path) -> None:
    card, info = read_card(root / "data/phantom.yaml"), read_json(root / "models/phantom/combined/model.json")
    tested, untested = (modelcard.items(card, info, done, "met" if done else "not met", ["clinic"] if done else [], True) for done in (True, False))
    assert sum(item.met != "not met" for item in tested) == sum(item.met != "not met" for item in untested) + 3
    assert {item.guideline for item in tested} == {"TRIPOD+AI", "CLAIM 2024"} and all(item.where for item in tested)


@pytest.mark.parametrize(("recall", "met"), [(0.5, "met"), ("too few", "in part"), (None, "not met")])
def test_fairness_is_met_where_every_group_could_be_told(tmp_path: Path, recall: float | str | None, met: str) -> None:
    root = build(tmp_path / "root")
    share: dict[str, float | str] = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90}
    groups = {"tan": {"accuracy": share, "recall": {"df": share | {"value": recall}}}} if recall is not None else {}
    path = root / "reports/phantom/detail/combined.json"
    write_json(path, read_json(path) | {"subgroups": {"skin_tone": groups}})
    assert modelcard.grouped(Place(root, "phantom", True), "combined") == met


def test_compare_shows_intervals_and_groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "reports/phantom/detail/combined.json"
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    groups = {
        "light": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90},
        "dark": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40},
        "tan": {"value": "too few", "n": 3},
    }
    confusion = {"classes": ["df", "nv", "vasc"], "counts": [[5, 3, 0], [0, 9, 0], [0, 0, 8]]}
    intervals = {"rare_f1": score, "rare_ap": score, "macro_f1": {"value": 0.66, "low": 0.61, "high": 0.71}}
    recall = {"light": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 40}, "dark": {"value": "too few", "n": 4}, "tan": {"value": "too few", "n": 1}}
    subgroups = {"skin_tone": {k: {"accuracy": v, "recall": {"df": recall[k]}} for k, v in groups.items()}}
    write_json(path, read_json(path) | {"confusion": confusion, "intervals": intervals, "subgroups": subgroups})
    write_lock(root, "dvc.lock", "models/phantom/combined", "models/phantom/real")
    page = open_page(root, monkeypatch, "compare")
    assert not page.exception and "0.50 (0.40 to 0.60)" in page.table[0].value.to_string()
    others = page.table[1].value.set_index("Regime")["F1, mean over diagnoses"]
    assert others.to_dict() == {"combined": "0.66 (0.61 to 0.71)", "real": "0.630"}
    taken = page.table[2].value.to_numpy().tolist()
    assert taken == [["Dermatofibroma", "5 of 8", "melanocytic nevus (3)"], ["Vascular lesion", "8 of 8", "none"]]
    assert page.table[3].value["Group"].tolist() == ["dark", "light"] and "skin tone 20 points (dark below light)" in words(page)
    assert (
        page.table[3].value.iloc[:, 3].tolist() == ["too few", "80 (70 to 90; n = 40)"]
        and "Dermatofibroma named first" in page.table[3].value.columns[3]
    )
    assert page.header[0].value.startswith("Tiny")  # the verdict first
