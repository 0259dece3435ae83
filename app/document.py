"""What is known of a case, as a record for machines (JSON) and as one page for the patient's file (PDF)."""

from __future__ import annotations

import io
import json
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

from app import wording, wording_result
from stages.classifier.prediction import Result
from stages.dataset.card import Card

MARGIN = 15 * mm
SIDE = 55 * mm  # of a picture
ASSESSMENT = ("The clinician's own assessment", "", "", "Name, date, signature")


def record(card: Card, regime: str, files: list[dict[str, str]], result: Result, refer: list[str], hashes: dict[str, str]) -> dict[str, Any]:
    """What the page said of a case: `files` (name, sha256, reason why it was left out), what was found, what it stands on."""
    return {
        "notice": f"{wording.NOTICE} {wording.PHANTOM}" if card.phantom else wording.NOTICE,
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


def as_json(told: dict[str, Any]) -> str:
    """The record as JSON text."""
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def as_pdf(told: dict[str, Any], titles: dict[str, str], pictures: dict[str, NDArray[np.uint8]], limits: list[str]) -> bytes:
    """The record as one A4 page: `pictures` by caption, every diagnosis by its title in `titles`, `limits` of use, lines to sign. Same input, same bytes."""
    styles = getSampleStyleSheet()
    body, small = styles["BodyText"], styles["BodyText"].clone("small", fontSize=7.5, leading=9)

    def text(words: str, style: Any = body) -> Paragraph:
        return Paragraph(escape(words), style)

    shown = [[Picture(_png(pixels), SIDE, SIDE) for pixels in pictures.values()], [text(caption, small) for caption in pictures]]
    ranked = sorted(told["p"], key=lambda name: -told["p"][name])
    rows = [["Diagnosis", "Of 1,000 images like this", "Range over models", "Answer"]]
    for name in ranked:
        answer = wording_result.PRESENCE[told["present"][name]][0] if name in told["present"] else ""
        rows.append([titles[name], wording.of_1000(told["p"][name]), wording.span(*told["range_over_models"][name]), answer])
    table = Table(rows, hAlign="LEFT", style=[("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("FONT", (0, 0), (-1, 0), "Helvetica-Bold")])
    sets = [text(wording_result.conformal(coverage, names, titles).replace("**", "")) for coverage, names in told["conformal_sets"].items()]
    refer = [text(f"Refer: {'; '.join(told['refer'])}.")] if told["refer"] else []
    files = [text(f"{one['name']}: sha256 {one['sha256']}{', left out: ' + one['reason'] if one['reason'] else ''}", small) for one in told["files"]]
    hashes = [text(f"{name}: {value}", small) for name, value in told["hashes"].items()]
    lines: list[Flowable] = []
    for label in ASSESSMENT:
        lines += [text(label, small), Spacer(0, 5 * mm), HRFlowable(width="100%", color=colors.black, thickness=0.5)]
    story: list[Flowable] = [
        Paragraph(escape(f"rarelens: {told['data_set']}"), styles["Heading1"]),
        Paragraph(escape(told["notice"]), styles["Heading3"]),
        Table(shown, hAlign="LEFT"),
        table,
        Spacer(0, 3 * mm),
        *sets,
        *refer,
        Paragraph("Limits", styles["Heading3"]),
        *(text(line, small) for line in limits),
        Paragraph("Where this comes from", styles["Heading3"]),
        text(f"Model {told['regime']}.", small),
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


def _png(pixels: NDArray[np.uint8]) -> io.BytesIO:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    out.seek(0)
    return out
