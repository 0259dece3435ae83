"""What the model says of a case: the pictures, an answer per rare disease, every probability, the conformal sets, and whether to refer."""

from __future__ import annotations

import streamlit as st

from app import frame, measured, risk, wording, wording_result
from app.reading.case import Case
from stages.classifier.prediction import Presence


def show(case: Case) -> None:
    """The section."""
    choice, result, titles = case.choice, case.result, case.titles
    st.header("What the model says")
    frame.phantom_warning(choice)
    if case.refer:
        st.warning(f"**Refer:** {'; '.join(case.refer)}.", icon=":material/person_search:")
    answers, pictures = st.columns([2, 1], gap="medium")  # the answer first: on a telephone the columns stand one below the other
    size = case.info["transform"]["size"]
    for view, picture in zip(case.used, case.pictures, strict=True):
        name = f"{view.name}: " if len(case.used) > 1 else ""
        caption = f"{name}The middle square; the model sees it at {size} x {size} px."
        pictures.image(picture.shown, caption=caption, alt=f"{name}The uploaded image", width="stretch")
    with answers:
        if len(case.used) > 1:
            st.warning(
                f"One case of {len(case.used)} views: probabilities are their mean. All must show the same lesion of the same patient.",
                icon=":material/collections:",
            )
        told = measured.shares(choice.place, choice.regime)
        for disease, answer in result.present.items():
            show_presence(case, disease, answer, told.get(disease, {}))
    st.subheader("Every diagnosis it knows")
    ranked = sorted(result.probabilities, key=lambda name: -result.probabilities[name])
    rows = [(wording.heading(titles[n]), wording.of_1000(result.probabilities[n]), wording.span(*result.spread[n])) for n in ranked]
    columns = ["Diagnosis", "Of 1,000 images like this", f"Range over {len(case.info['seeds'])} models"]
    frame.table(rows, columns)
    frame.small(f"{wording_result.MIX} The model is a team trained from different seeds; a wide range means that they disagree.")
    st.subheader("Diagnoses it cannot exclude")
    for coverage, names in result.conformal.items():
        st.markdown(wording_result.conformal(coverage, names, titles))
        if names is not None and (known := measured.covered(choice.place, choice.regime, coverage)):
            frame.small(wording_result.held(known, titles))
        if still := measured.not_excluded(result, coverage):
            st.markdown(wording_result.reconciled(coverage, still, titles))
    frame.small(wording_result.COVERS)


def show_presence(case: Case, disease: str, answer: Presence, tested: dict[str, measured.Share | None]) -> None:
    """Present, not present or cannot say, the frequency behind it, how often such an answer is right, the lesions its threshold stands on."""
    result, info, title = case.result, case.info, case.titles[disease]
    word, icon, colour = wording_result.PRESENCE[answer]
    with st.container(border=True):
        st.subheader(f"{wording.heading(title)}: :{colour}[{icon} {word}]", anchor=False)
        st.markdown(
            wording_result.frequency(result.probabilities[disease], title, *result.spread[disease], len(info["seeds"]), info["prior_cal"][disease])
        )
        default, origin = risk.default_prior(case.choice.card.risk, disease, info["prior_cal"])
        st.number_input(
            f"Of 100 such patients, how many have {title} (before answers and image)",
            min_value=0.0001,
            max_value=99.0,
            value=float(f"{100 * default:.3g}"),
            step=0.1,
            format="%.4g",
            key=_prior_key(case.choice, disease),
            help=f"Preset: {origin}. Enter the share among your own patients.",
        )
        prior = entered_prior(case.choice, disease)
        for one in measured.firm(answer):
            st.markdown(wording_result.right(one, measured.value_of_answer(one, tested, prior), prior))
        frame.small(wording_result.tested(title, tested, answer))
        frame.small(wording_result.basis(info["thresholds"][disease]))


def entered_prior(choice: frame.Choice, disease: str) -> float:
    """The prevalence 0..1 that was entered beside the answer on `disease`."""
    return float(st.session_state[_prior_key(choice, disease)]) / 100


def _prior_key(choice: frame.Choice, disease: str) -> str:
    return f"prior {choice.place.name} {disease}"
