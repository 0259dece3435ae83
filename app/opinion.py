"""Below a result, where the history is on: what is kept of this reading, and what the clinician thinks of it."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from app import frame, gate, history, measured, settings
from stages.classifier.prediction import Result
from stages.runtime.errors import UserError

OPINIONS: tuple[history.Opinion, ...] = ("agree", "disagree")
SHORT = 12  # letters of the case's own hash that name it until somebody does


def show(choice: frame.Choice, case: str, images: list[str], result: Result, info: dict[str, Any], hashes: dict[str, str]) -> None:
    """Keep the reading of `case` (the hash of its files, which have the hashes `images`) once a session, and ask for an opinion on it."""
    found = settings.read()
    if not found.history.enabled:
        return
    from app import document  # imports reportlab, which nothing else needs before a report is asked for

    st.header("Your assessment")
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    told = document.record(choice.card, choice.regime, [], result, measured.referral(result, info["thresholds"], titles), hashes)
    kept = f"reading {case} {hashes['model (md5)']} {choice.place.name} {choice.regime}"
    try:
        readings = history.History(choice.place.root / found.history.file)
        if kept not in st.session_state:
            reading = history.Reading(
                gate.who(found), case[:SHORT], choice.place.name, choice.regime, hashes["model (md5)"], info["mix_sha256"], " ".join(images),
                json.dumps(told, ensure_ascii=False),
            )  # fmt: skip
            st.session_state[kept] = readings.add(reading)
        with st.form(f"form {kept}"):
            name = st.text_input("Case number (of your own; no name)", value=case[:SHORT], max_chars=80)
            said = st.radio("Do you agree with the model?", OPINIONS, index=None, format_func=str.capitalize, horizontal=True)
            comment = st.text_area("Comment", max_chars=2000)
            if st.form_submit_button("Keep my assessment"):
                if readings.judge(st.session_state[kept], name.strip() or case[:SHORT], said, comment):
                    st.success("Kept.", icon=":material/check:")
                else:
                    st.error("This reading was erased from the history.", icon=":material/error:")
    except UserError as error:
        st.error(str(error), icon=":material/error:")
    frame.small(
        "This reading is in the history: who, when, the hashes below, what the model said, your assessment. The picture and its name are not."
    )
