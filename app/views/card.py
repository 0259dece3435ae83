"""The model's card: what it is and for, what it is worth, which reporting items it meets, and its hashes."""

from __future__ import annotations

import streamlit as st

from app import artifacts, frame, measured, modelcard, wording, wording_result
from stages.runtime.files import read_json

ICON = {"met": "✓ met", "in part": "~ in part", "not met": "✗ not met"}


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place, card = choice.place, choice.card
    content = frame.check(choice)
    info = read_json(place.models / choice.regime / "model.json")
    st.title(f"Model card: {choice.regime}")
    frame.phantom_warning(choice)
    frame.shortcut_warning(choice)
    may, must_not = st.columns(2)
    may.subheader("Intended")
    may.markdown("\n".join(f"- {line}" for line in [wording.NOTICE, *wording.intended(card)]))
    must_not.subheader("Must not be used")
    must_not.markdown("\n".join(f"- {line}" for line in wording.must_not(card, artifacts.base_of(place))))
    st.header("What it is")
    frame.table(modelcard.facts(card, info), ["What", "This model"])
    st.header("What it is worth")
    rows = modelcard.performance(place, choice.regime, card)
    if rows:
        frame.table(rows, ["Disease", "Found, of those with it", "Rightly left out, of those without"])
        frame.small("“Present” at the calibrated threshold, on the sealed test images; brackets: 95% interval, n lesions.")
    else:
        st.info(f"Not tested yet: build the reports with `{place.command}`.", icon=":material/info:")
    if "ood" in info:
        titles = {key: entry.title for key, entry in card.classes.items()}
        rates = wording_result.refusal_rates(info["ood"], measured.refused(place, choice.regime), titles)
        frame.table(rates, ["Diagnosis", "Refused in the calibration set", "Refused on test images"])
    st.header("Reporting guidelines")
    verdict, grouped = place.reports / "verdict.json", modelcard.grouped(place, choice.regime)
    external = sorted(read_json(verdict).get("external", {})) if verdict.exists() else []
    items = modelcard.items(card, info, bool(rows), grouped, external, (place.reports / "audit").exists())
    for guideline in dict.fromkeys(item.guideline for item in items):
        st.subheader(guideline, anchor=False)
        table = [(item.item, ICON[item.met], item.where) for item in items if item.guideline == guideline]
        frame.table(table, ["Item", "Here", "Where, or why not"])
    frame.small("A selection of items in short words, judged by the makers of this software; the guidelines themselves are longer.")
    st.header("Hashes")
    hashes = {"model (md5)": content, **{key: info[key] for key in ("split_sha256", "mix_sha256", "base_hash", "groups_sha256")}}
    st.code("\n".join(f"{name}: {value}" for name, value in hashes.items()), language=None, wrap_lines=True)


show(frame.chosen())
