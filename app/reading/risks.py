"""The patient's risk: the symptom form and, per rare disease, the chance before anything, after the answers and after the image."""

from __future__ import annotations

import streamlit as st

from app import frame, risk, wording, wording_risk
from app.reading.case import Case
from app.reading.result import entered_prior


def show(case: Case) -> dict[str, risk.Assessment]:
    """The section; what it says, per rare disease."""
    st.header("Risk, with what you know of the patient")
    frame.phantom_warning(case.choice)
    answers: dict[str, risk.Answer] = {}
    for key, symptom in case.choice.card.symptoms.items():
        # The image is part of the key: another patient's image does not inherit these answers.
        said = st.radio(symptom.question, ["not asked", "yes", "no"], format_func=str.capitalize, horizontal=True, key=f"{key} {case.digest}")
        if said in ("yes", "no"):
            answers[key] = "yes" if said == "yes" else "no"
    found = {disease: show_disease(case, disease, answers) for disease in case.result.present}
    frame.small(f"{wording_risk.INDEPENDENCE} {wording_risk.INTERVALS}")
    return found


def show_disease(case: Case, disease: str, answers: dict[str, risk.Answer]) -> risk.Assessment:
    """One disease: the entered prior, three steps, level, where each ratio comes from, and what another answer would change."""
    card, info, prior = case.choice.card, case.info, entered_prior(case.choice, disease)  # entered above, beside the answer
    spread = case.result.spread[disease] if len(info["seeds"]) > 1 else None
    image = risk.image_of(info, disease, case.result.probabilities[disease], spread)
    result = risk.assess(prior, risk.findings(disease, card.symptoms, answers), image, card.risk)
    with st.container(border=True):
        _, icon, colour = wording_risk.LEVEL[result.level]
        example = any(f.example for f in result.findings)
        st.subheader(f"{wording.heading(case.titles[disease])}: :{colour}[{icon} {wording_risk.level_word(result.level, example)}]", anchor=False)
        if example:
            st.warning(wording_risk.EXAMPLE, icon=":material/science:")
        frame.table(wording_risk.steps(result), ["Step", "Chance", "Interval", "Of 1,000 such patients"])
        reach = wording_risk.reach([risk.level(p, card.risk) for p in result.after_image_interval])
        frame.small(f"{reach}Low is under {wording.percent(card.risk.low)}, high from {wording.percent(card.risk.high)} on (the card's cut-offs).")
        rows = wording_risk.evidence(result.findings, image, info["n_cal"][disease])
        frame.table(rows, ["Evidence", "Multiplies the odds by", "Interval", "Source"])
        other = risk.what_if(prior, disease, card.symptoms, answers, image, card.risk)
        if rows := wording_risk.changed_answers({key: symptom.question for key, symptom in card.symptoms.items()}, answers, other):
            st.markdown("**If one answer were another**, the chance after the image would be:")
            frame.table(rows, ["Question", "Yes", "No", "Not asked"])
    return result
