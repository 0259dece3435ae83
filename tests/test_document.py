"""The report of a case: one page that holds what the page said, and the same as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app import document, wording
from stages.classifier.prediction import Result
from stages.dataset.card import read_card
from stages.imaging.phantoms import CLASSES
from tests.tiny_root import REPOSITORY

CARD = read_card(REPOSITORY / "data" / "phantom.yaml")
TITLES = {key: entry.title for key, entry in CARD.classes.items()}
SHARE = 1 / len(CLASSES)
RESULT = Result(
    "df", dict.fromkeys(CLASSES, SHARE), dict.fromkeys(CLASSES, (0.1, 0.2)), {"df": "cannot say", "vasc": "no"}, {"0.90": ["df", "nv"], "0.95": None}
)


def told(files: int = 1) -> dict[str, object]:
    named = [{"name": "<b>lesion & co</b>.png", "sha256": "a" * 64, "reason": ""}] * files
    return document.record(CARD, "combined", named, RESULT, ["it cannot say"], {"model (md5)": "c" * 32})


def test_the_json_holds_what_the_page_says() -> None:
    found = json.loads(document.as_json(told()))
    assert found["p"] == pytest.approx(dict.fromkeys(CLASSES, SHARE), abs=1e-6) and found["conformal_sets"] == {"0.90": ["df", "nv"], "0.95": None}
    assert wording.PHANTOM in found["notice"] and found["refer"] == ["it cannot say"] and found["hashes"] == {"model (md5)": "c" * 32}


@pytest.mark.parametrize("files", [1, 8])
def test_the_pdf_is_one_page_and_the_same_twice(files: int) -> None:
    pictures = {"The image": np.zeros((40, 40, 3), np.uint8), "The map": np.full((40, 40, 3), 255, np.uint8)}
    limits = ["No use <alone>."] * 9
    once, again = (document.as_pdf(told(files), TITLES, pictures, limits) for _ in range(2))
    assert once == again and once.startswith(b"%PDF") and once.count(b"/Type /Page\n") == 1
