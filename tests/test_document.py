"""The report of a case: one page that holds what the page said, and the same as JSON."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest

from app import document, risk, wording, wording_risk
from app.measured import Share
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


HIT, SPARED = Share(0.6, 0.5, 0.7, 210), Share(0.9, 0.88, 0.92, 1260)
SHARES: dict[str, dict[str, Share | None]] = {
    "df": {"sensitivity": HIT, "specificity": SPARED, "missed": Share(0.3, 0.2, 0.4, 210), "ruled_out": Share(0.8, 0.7, 0.9, 1260)}
}


def risks(**answers: risk.Answer) -> dict[str, risk.Assessment]:
    """Of both rare diseases of the card, at one in a hundred before."""
    image = risk.image_ratio(0.5, SHARE, 50, 300, (0.3, 0.7))
    return {d: risk.assess(0.01, risk.findings(d, CARD.symptoms, answers), image, CARD.risk) for d in ("df", "vasc")}


def told(files: int = 1, **answers: risk.Answer) -> dict[str, Any]:
    named = [{"name": "<b>lesion & co</b>.png", "sha256": "a" * 64, "reason": ""}] * files
    record = document.record(
        CARD, "combined", named, RESULT, ["it cannot say"], {"model (md5)": "c" * 32}, ["a border tells the disease"], "2026-01-02 03:04 UTC"
    )
    assessed = risks(**answers)
    return record | {"risk": document.risk_record(CARD, assessed), "tested": document.worth_record(RESULT, SHARES, assessed)}


def pdf(record: dict[str, Any]) -> bytes:
    pictures = {"The image": np.zeros((40, 40, 3), np.uint8), "The map": np.full((40, 40, 3), 255, np.uint8)}
    return document.as_pdf(record, TITLES, pictures, ["No use <alone>."] * 9)


def content(page: bytes) -> str:
    """The drawing commands of a page, among them its words."""
    (packed,) = re.findall(rb"<<\n/Filter [^>]*>>\s*stream\s(.*?)~>", page, re.DOTALL)  # pictures have other keys before the filter
    return re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), zlib.decompress(base64.a85decode(packed))).decode("cp1252")


def words(page: bytes) -> str:
    """What a page says, its lines joined."""
    return " ".join(re.findall(r"\(((?:[^()\\]|\\.)*)\) Tj", content(page))).replace("\\", "")


def test_the_json_holds_what_the_page_says() -> None:
    found = json.loads(document.as_json(told()))
    assert found["p"] == pytest.approx(dict.fromkeys(CLASSES, SHARE), abs=1e-6) and found["conformal_sets"] == {"0.90": ["df", "nv"], "0.95": None}
    assert found["read_at"] == "2026-01-02 03:04 UTC" and "Read on 2026-01-02 03:04 UTC" in words(pdf(told()))
    assert found["warnings"] == ["a border tells the disease"] and "A border tells the disease." in words(pdf(told()))
    assert wording.PHANTOM in found["notice"] and found["refer"] == ["it cannot say"] and found["hashes"] == {"model (md5)": "c" * 32}


@pytest.mark.parametrize("files", [1, 8])
def test_the_pdf_is_one_page_and_the_same_twice(files: int) -> None:
    once, again = (pdf(told(files, firm="yes", blanches="no")) for _ in range(2))
    assert once == again and once.startswith(b"%PDF") and once.count(b"/Type /Page\n") == 1


def test_the_report_holds_the_risk_step_by_step_and_what_was_answered() -> None:
    found = json.loads(document.as_json(told(firm="yes")))["risk"]
    after = risks(firm="yes")["df"]
    df = found["diseases"]["df"]
    assert (df["prior"], df["after_symptoms"], df["after_image"], df["level"]) == (0.01, after.after_symptoms, after.after_image, after.level)
    assert df["after_image_interval"] == list(after.after_image_interval) and df["after_symptoms_interval"] == list(after.after_symptoms_interval)
    assert df["answers"][0]["ratio"] == {"value": 6, "interval": [2, 18], "source": "EXAMPLE"} and df["answers"][0]["example"]
    assert found["assumption"] == wording_risk.INDEPENDENCE
    questions = {key: symptom.question for key, symptom in CARD.symptoms.items()}
    assert found["answers"] == {question: "yes" if key == "firm" else "not asked" for key, question in questions.items()}

    said = words(pdf(told(firm="yes")))
    for p, bounds in ((after.after_symptoms, after.after_symptoms_interval), (after.after_image, after.after_image_interval)):
        assert f"{wording.percent(p)} ({wording.percent(bounds[0])} to {wording.percent(bounds[1])})" in said
    assert f"Answered: {questions['firm']} Yes. Not asked: {questions['blanches']}" in said
    assert "× 6 (2 to 18, EXAMPLE)" in said and wording_risk.EXAMPLE in said and wording_risk.INDEPENDENCE in said


def test_the_report_says_how_often_the_model_is_right_and_what_its_answer_is_worth() -> None:
    found = json.loads(document.as_json(told()))["tested"]
    assert found["df"]["sensitivity"] == {"value": 0.6, "low": 0.5, "high": 0.7, "n": 210} and found["df"]["prevalence"] == 0.01
    assert found["df"]["predictive_values"]["yes"]["value"] == pytest.approx(0.01 * 0.6 / (0.01 * 0.6 + 0.99 * 0.1))  # cannot say: both answers
    assert set(found["df"]["predictive_values"]) == {"yes", "no"} and found["vasc"]["predictive_values"] == {"no": None}
    said = words(pdf(told()))
    assert "it calls 60 (50 to 70; n = 210) of 100 lesions with dermatofibroma present (sensitivity)" in said
    assert "is right for 57 of 1,000 who are told so" in said and "has not been tested" in said


def test_without_answers_nothing_is_marked_as_an_example_and_the_assumption_stays() -> None:
    said = words(pdf(told()))
    assert "Answered: nothing." in said and "EXAMPLE" not in said and wording_risk.INDEPENDENCE in said


def test_the_report_stays_readable_in_print() -> None:
    scale = re.search(r"q\n([\d.]+) 0 0 [\d.]+ [\d.]+ [\d.]+ cm", content(pdf(told(firm="yes", blanches="no", bled="yes", bite="no"))))
    assert scale and float(scale[1]) > 0.85  # of 7.5 points, the smallest print
