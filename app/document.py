"""What is known of a case, as a record for machines (JSON) and as one page for the patient's file (PDF)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, HRFlowable, KeepInFrame, Paragraph, SimpleDocTemplate, Spacer, Table
from reportlab.platypus import Image as Picture

from app import measured, wording, wording_result, wording_risk
from app.risk import Assessment
from stages.classifier.prediction import Presence, Result
from stages.dataset.card import Card

MARGIN = 15 * mm
SIDE = 42 * mm  # of a picture
TALL = 110 * mm  # what all pictures share
GRID = [("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("FONT", (0, 0), (-1, 0), "Helvetica-Bold"), ("FONTSIZE", (0, 0), (-1, -1), 9)]
ASSESSMENT = ("The clinician's own assessment", "", "", "Name, date, signature")


def record(
    card: Card, regime: str, files: list[dict[str, str]], result: Result, refer: list[str], hashes: dict[str, str], warnings: list[str], read_at: str
) -> dict[str, Any]:
    """What the page said of a case: `files` (name, sha256, reason why it was left out), what was found, what it stands on, `warnings` of the data and
    files; `read_at`, when (UTC).
    """
    return {
        "read_at": read_at,
        "notice": f"{wording.NOTICE} {wording.PHANTOM}" if card.phantom else wording.NOTICE,
        "warnings": warnings,
        "data_set": card.title,
        "regime": regime,
        "files": files,
        "predicted": result.predicted,
        "p": {name: round(p, 6) for name, p in result.probabilities.items()},
        "range_over_models": {name: [round(low, 6), round(high, 6)] for name, (low, high) in result.spread.items()},
        "present": result.present,
        "conformal_sets": result.conformal,
        "refer": refer,
        "hashes": hashes,
    }


def worth_record(
    result: Result, shares: Mapping[str, Mapping[str, measured.Share | None]], risks: Mapping[str, Assessment]
) -> dict[str, dict[str, Any]]:
    """Per rare disease what `measured.shares` knows of test (null: too few), the prevalence that was entered, and what the answer is worth there.

    Where the model cannot say, what either answer would be worth.
    """
    told: dict[str, dict[str, Any]] = {}
    for disease, answer in result.present.items():
        found, prior = shares.get(disease, {}), risks[disease].prior
        values = {one: measured.value_of_answer(one, found, prior) for one in measured.firm(answer)}
        told[disease] = {
            **{name: (one := found.get(name)) and asdict(one) for name in measured.SHARES},
            "prevalence": prior,
            "predictive_values": {one: value and dict(zip(("value", "low", "high"), value, strict=True)) for one, value in values.items()},
        }
    return told


def risk_record(card: Card, risks: Mapping[str, Assessment]) -> dict[str, Any]:
    """What the page said of the patient's risk: every question with its answer ("not asked"), and the assessment per rare disease in `risks`."""
    answered: dict[str, str] = {found.question: found.answer for one in risks.values() for found in one.findings}
    return {
        "assumption": wording_risk.INDEPENDENCE,
        "intervals": wording_risk.INTERVALS,
        "answers": {symptom.question: answered.get(symptom.question, "not asked") for symptom in card.symptoms.values()},
        "diseases": {disease: _assessed(one) for disease, one in risks.items()},
    }


def _assessed(one: Assessment) -> dict[str, Any]:
    """An assessment: chances 0..1 with their intervals, and what each piece of evidence multiplies the odds by (null: the card has no ratio)."""
    chances = {
        "prior": one.prior,
        "after_symptoms": one.after_symptoms,
        "after_symptoms_interval": one.after_symptoms_interval,
        "after_image": one.after_image,
        "after_image_interval": one.after_image_interval,
    }
    ratios = [
        {
            "question": found.question,
            "answer": found.answer,
            "ratio": found.ratio and {"value": found.ratio.value, "interval": [found.ratio.low, found.ratio.high], "source": found.ratio.source},
            "example": found.example,
        }
        for found in one.findings
    ]
    image = one.image and {"value": one.image.value, "interval": one.image.spread, "kept_within": [one.image.low, one.image.high]}
    return {**chances, "level": one.level, "answers": ratios, "image": image}


def as_json(told: dict[str, Any]) -> str:
    """The record as JSON text."""
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def as_pdf(told: dict[str, Any], titles: dict[str, str], pictures: dict[str, NDArray[np.uint8]], limits: list[str]) -> bytes:
    """The record, with what `risk_record` gives under "risk" and `worth_record` under "tested", as one A4 page: `pictures` by caption, every
    diagnosis by its title in `titles`, `limits` of use, lines to sign. Same input, same bytes.
    """
    styles = getSampleStyleSheet()
    body, small = styles["BodyText"], styles["BodyText"].clone("small", fontSize=7.5, leading=9, spaceBefore=2)

    def text(words: str, style: Any = body) -> Paragraph:
        return Paragraph(escape(words), style)

    side = min(SIDE, TALL / len(pictures))
    shown = [part for caption, pixels in pictures.items() for part in (Picture(_png(pixels), side, side), text(caption, small), Spacer(0, 2 * mm))]
    ranked = sorted(told["p"], key=lambda name: -told["p"][name])
    rows = [["Diagnosis", "Of 1,000 images like this", "Range over models", "Answer"]]
    for name in ranked:
        answer = wording_result.PRESENCE[told["present"][name]][0] if name in told["present"] else ""
        rows.append([titles[name], wording.of_1000(told["p"][name]), wording.span(*told["range_over_models"][name]), answer])
    table = Table(rows, hAlign="LEFT", style=GRID)
    sets = [text(wording_result.conformal(coverage, names, titles).replace("**", "")) for coverage, names in told["conformal_sets"].items()]
    refer = [text(f"Refer: {'; '.join(told['refer'])}.")] if told["refer"] else []
    files = [text(f"{one['name']}: sha256 {one['sha256']}{', left out: ' + one['reason'] if one['reason'] else ''}", small) for one in told["files"]]
    worth = [text(line, small) for line in _worth_lines(told["tested"], told["present"], titles)]
    beside = [table, text(wording_result.MIX, small), *refer, *sets, *worth]
    result = Table([[shown, beside]], colWidths=[SIDE + 6 * mm, None], hAlign="LEFT", style=[("VALIGN", (0, 0), (-1, -1), "TOP")])
    hashes = [text(f"{name}: {value}", small) for name, value in told["hashes"].items()]
    lines: list[Flowable] = []
    for label in ASSESSMENT:
        lines += [text(label, small), Spacer(0, 5 * mm), HRFlowable(width="100%", color=colors.black, thickness=0.5)]
    story: list[Flowable] = [
        Paragraph(escape(f"rarelens: {told['data_set']}"), styles["Heading1"]),
        Paragraph(escape(told["notice"]), styles["Heading3"]),
        *(text(f"{wording.heading(line)}.", small) for line in told["warnings"]),
        result,
        Paragraph("Risk, with what is known of the patient", styles["Heading3"]),
        Table(_risk_rows(told["risk"], titles), hAlign="LEFT", style=GRID),
        Spacer(0, 2 * mm),
        *(text(line, small) for line in _risk_lines(told["risk"], titles)),
        Paragraph("Limits", styles["Heading3"]),
        *(text(line, small) for line in limits),
        Paragraph("Where this comes from", styles["Heading3"]),
        text(f"Read on {told['read_at']} by the model {told['regime']}.", small),
        *files,
        *hashes,
        Spacer(0, 4 * mm),
        *lines,
    ]
    out = io.BytesIO()
    page = SimpleDocTemplate(
        out, pagesize=A4, topMargin=MARGIN, bottomMargin=MARGIN, leftMargin=MARGIN, rightMargin=MARGIN, invariant=1, title="rarelens"
    )
    page.build([KeepInFrame(page.width - 12, page.height - 12, story, mode="shrink")])
    return out.getvalue()


def _worth_lines(told: dict[str, Any], present: dict[str, Presence], titles: dict[str, str]) -> list[str]:
    """Per rare disease how often the model is right on test, and what its answer is worth at the entered prevalence."""
    lines = []
    for disease, one in told.items():
        found = {name: one[name] and measured.Share(**one[name]) for name in measured.SHARES}
        values: dict[Presence, tuple[float, float, float] | None] = {
            answer: value and (value["value"], value["low"], value["high"]) for answer, value in one["predictive_values"].items()
        }
        parts = [wording_result.tested(titles[disease], found if any(found.values()) else {}, present[disease])]
        parts += [wording_result.right(answer, value, one["prevalence"]).replace("**", "") for answer, value in values.items()]
        lines.append(f"{wording.heading(titles[disease])}: {' '.join(parts)}")
    return lines


def _risk_rows(told: dict[str, Any], titles: dict[str, str]) -> list[list[str]]:
    """The table of the three steps, a row per disease, under its header."""
    rows = [["Disease", "Chance before", "After the answers", "After the image", "Level"]]
    for disease, one in told["diseases"].items():
        steps = [wording_risk.chance(one[step], one[f"{step}_interval"]) for step in ("after_symptoms", "after_image")]
        level = wording_risk.level_word(one["level"], any(found["example"] for found in one["answers"]))
        rows.append([titles[disease], wording.percent(one["prior"]), *steps, level])
    return rows


def _risk_lines(told: dict[str, Any], titles: dict[str, str]) -> list[str]:
    """What was answered, what multiplied the odds of each disease, and what such figures take for granted."""
    asked = [f"{question} {answer.capitalize()}." for question, answer in told["answers"].items() if answer != "not asked"]
    silent = [question for question, answer in told["answers"].items() if answer == "not asked"]
    lines = [f"Answered: {' '.join(asked) or 'nothing.'}{' Not asked: ' + ' '.join(silent) if silent else ''}"]
    for disease, one in told["diseases"].items():
        parts = [f"{wording_risk.told_ratio(found['ratio'], found['example'])} ({found['question']})" for found in one["answers"]]
        image = f"{wording_risk.told_ratio(one['image'])} (the image)"
        lines.append(f"What multiplies the odds of {titles[disease]}: {'; '.join([*parts, image])}.")
    if any(found["example"] for one in told["diseases"].values() for found in one["answers"]):
        lines.append(wording_risk.EXAMPLE)
    return [*lines, f"{told['assumption']} {told['intervals']}"]


def _png(pixels: NDArray[np.uint8]) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    out.seek(0)
    return out
