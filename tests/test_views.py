"""The views beside the result: synthetic images, the data, the model's card; each with what it needs and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from app import modelcard, wording
from stages.dataset.card import read_card
from stages.dataset.table import write_table
from stages.imaging.phantoms import CLASSES
from stages.imaging.refining import encode_png
from stages.runtime.files import read_json, write_json, write_text
from tests.test_app import open_page, words
from tests.tiny_root import build, drawings, write_lock


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


def add_images(root: Path) -> None:
    """Refined images and a split of one lesion a class, and two synthetic ones of df, one rejected by the judge."""
    encoded = [encode_png(image) for image in drawings("gallery", 1)[0]]
    rows = [{"id": f"r{label}", "label": label, "group": label, "image": encoded[k]} for k, label in enumerate(CLASSES)]
    write_table(root / "data/refined/phantom/part.parquet", pd.DataFrame(rows))
    write_text(root / "data/splits/phantom.csv", "id,label,group,split,fold\n" + "".join(f"r{c},{c},{c},train,0\n" for c in CLASSES))
    shared = {"label": "df", "mode": "text2img", "image": encoded[0]}
    made = [
        {"id": "s1", "accepted": True, "reason": "", "nearest_train_distance": 0.25, **shared},
        {"id": "s2", "accepted": False, "reason": "judge", "nearest_train_distance": 0.5, **shared},
    ]
    write_table(root / "data/synthetic/phantom/df/part.parquet", pd.DataFrame(made))


def test_synthetic_images_are_marked_beside_real_ones(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(root, monkeypatch, "gallery")
    assert not page.exception and "dvc pull" in page.info[0].value
    add_images(root)
    page = open_page(root, monkeypatch, "gallery")
    assert not page.exception and "2 drawn, 1 accepted, 1 rejected" in words(page) and "AI-generated" in words(page)
    assert [text.value for text in page.subheader] == [
        "Real, from the training images",
        "Accepted",
        "Accepted, closest to a training image first",
        "Rejected",
    ]


def test_the_data_report_is_shown_with_its_pictures(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "data.md" in open_page(root, monkeypatch, "data").error[0].value
    folder = root / "reports/phantom"
    write_text(folder / "data.md", "# Drawings: the data\n\n## Warnings\n\n- Age tells.\n\n![Images](data.png)\n\nThe ![end](gone.png)\n")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "data.png")
    page = open_page(root, monkeypatch, "data")
    said = words(page)
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
    tested, untested = (modelcard.items(card, info, done, True) for done in (True, False))
    assert sum(item.met == "met" for item in tested) == sum(item.met == "met" for item in untested) + 2
    assert {item.guideline for item in tested} == {"TRIPOD+AI", "CLAIM 2024"} and all(item.where for item in tested)


def test_compare_shows_intervals_and_groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "reports/phantom/detail/combined.json"
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    groups = {
        "light": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90},
        "dark": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40},
        "tan": {"value": "too few", "n": 3},
    }
    told = {"intervals": {"rare_f1": score, "rare_ap": score}, "subgroups": {"skin_tone": {k: {"accuracy": v} for k, v in groups.items()}}}
    write_json(path, read_json(path) | told)
    write_lock(root, "dvc.lock", "models/phantom/combined", "models/phantom/real")
    page = open_page(root, monkeypatch, "compare")
    assert not page.exception and "0.50 (0.40 to 0.60)" in page.table[0].value.to_string()
    assert page.table[1].value["Group"].tolist() == ["dark", "light"] and "skin tone 20 points (dark below light)" in words(page)
    assert page.header[0].value.startswith("Tiny")  # the verdict first
