"""Below a result, where the history is on: what is kept of this reading, and what the clinician thinks of it."""

from __future__ import annotations

import json

import streamlit as st

from app import frame, gate, history, measured, settings
from app.reading.case import Case
from stages.runtime.errors import UserError

OPINIONS: tuple[history.Opinion, ...] = ("agree", "disagree")
SHORT = 12  # letters of the case's own hash that name it until somebody does


def show(case: Case) -> None:
    """The section: keeps the reading once a session, and asks for an opinion on it."""
    found = settings.read()
    if not found.history.enabled:
        return
    from app import document  # imports reportlab, which nothing else needs before a report is asked for

    st.header("Your assessment")
    choice, short = case.choice, case.digest[:SHORT]
    warnings = [*measured.shortcuts(choice.place), *(view.note for view in case.used if view.note)]
    told = document.record(choice.card, choice.regime, [], case.result, case.refer, case.hashes, warnings, case.read_at)
    kept = f"reading {case.digest} {case.content} {choice.place.name} {choice.regime}"
    try:
        readings = history.History(choice.place.root / found.history.file)
        if kept not in st.session_state:
            reading = history.Reading(
                who=gate.who(found),
                case=short,
                dataset=choice.place.name,
                regime=choice.regime,
                model=case.content,
                data=case.info["mix_sha256"],
                images=" ".join(view.digest for view in case.used),
                result=json.dumps(told, ensure_ascii=False),
            )
            st.session_state[kept] = readings.add(reading)
        with st.form(f"form {kept}"):
            name = st.text_input("Case number (of your own; no name)", value=short, max_chars=80)
            said = st.radio("Do you agree with the model?", OPINIONS, index=None, format_func=str.capitalize, horizontal=True)
            comment = st.text_area("Comment", max_chars=2000)
            if st.form_submit_button("Keep my assessment"):
                if readings.judge(st.session_state[kept], name.strip() or short, said, comment):
                    st.success("Kept.", icon=":material/check:")
                else:
                    st.error("This reading was erased from the history.", icon=":material/error:")
    except UserError as error:
        st.error(str(error), icon=":material/error:")
    frame.small(
        "This reading is in the history: who, when, the hashes below, what the model said, your assessment. The picture and its name are not."
    )
