"""The case to take away, as PDF and JSON."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import artifacts, frame, measured, risk, wording, wording_result
from app.reading.case import Case


def show(case: Case, risks: Mapping[str, risk.Assessment]) -> None:
    """The section; `risks` as the page shows them."""
    from app import document  # imports reportlab, which nothing else needs before a result is there

    choice, result, titles = case.choice, case.result, case.titles
    st.header("Report")
    files = [{"name": view.name, "sha256": view.digest, "reason": view.reason} for view in case.views]
    warnings = [*measured.shortcuts(choice.place), *(f"of {view.name}, {view.note}" for view in case.used if view.note)]
    told = document.record(choice.card, choice.regime, files, result, case.refer, case.hashes, warnings, case.read_at)
    told["risk"] = document.risk_record(choice.card, risks)
    told["tested"] = document.worth_record(result, measured.shares(choice.place, choice.regime), risks)
    explainer = frame.explainer(choice, case.content)
    limits = [wording_result.NO_PROOF, f"Must not be used: {' '.join(wording.must_not(choice.card, artifacts.base_of(choice.place)))}"]

    def pdf() -> bytes:
        """Made when it is asked for: it takes longer than all else on the page."""
        first = case.pictures[0]
        warmth = explainer.heat(first.seen, list(result.probabilities).index(result.predicted))
        mapped = frame.overlay(first.shown, warmth, 0.6)
        several = len(case.pictures) > 1
        pictures = {f"View {k} of {len(case.pictures)}" if several else "The image": each.shown for k, each in enumerate(case.pictures, start=1)}
        pictures |= {f"What speaks for {titles[result.predicted]}{' in view 1' if several else ''} (no proof)": mapped}
        return document.as_pdf(told, titles, pictures, limits)

    left, right = st.columns(2)
    left.download_button("Report as PDF", pdf, "rarelens.pdf", "application/pdf", width="stretch")
    right.download_button("Report as JSON", document.as_json(told), "rarelens.json", "application/json", width="stretch")
    frame.small("The report holds the picture, its file name and your answers: handle it as you handle the patient's file.")
