"""Why the model says it: the map of what moves the answer, and the training images that are most alike to it."""

from __future__ import annotations

import streamlit as st

from app import frame, wording, wording_result
from app.reading.case import Case

ALIKE = 4  # training images that are shown


def show(case: Case) -> None:
    """The section, on one view of the case, the first until another is chosen."""
    choice, titles, which = case.choice, case.titles, 0
    st.header("Why")
    if len(case.used) > 1:
        which = st.selectbox("Of the view", range(len(case.used)), format_func=lambda k: case.used[k].name)
    picture = case.pictures[which]
    explainer, classes = frame.explainer(choice, case.content), list(case.result.probabilities)
    left, right = st.columns([1, 2], gap="medium")
    with right:
        first = classes.index(case.result.predicted)
        asked = st.selectbox("What speaks for", classes, index=first, format_func=lambda c: wording.heading(titles[c]))
        strength = st.slider("Strength of the map", 0, 100, 60, format="%d%%")
        st.markdown(wording_result.NO_PROOF)
    warmth = explainer.heat(picture.seen, classes.index(asked))
    overlaid = frame.overlay(picture.shown, warmth, strength / 100)
    left.image(overlaid, caption=f"What speaks for {titles[asked]}: orange.", alt=f"Map, {titles[asked]}", width="stretch")
    if not choice.place.refined.exists() or not choice.place.split.exists():
        frame.small(f"The training images are not here: fetch them with `dvc pull` or build them with `{choice.place.command}`.")
    elif not choice.card.show_images:
        frame.withheld(choice)
    elif st.toggle("Show the most similar training images"):
        for column, one in zip(st.columns(ALIKE), explainer.alike(picture.seen, ALIKE), strict=False):
            told = f"{wording.heading(titles[one.label])} (similarity {one.similarity:.2f})"
            column.image(one.picture, caption=told, alt=titles[one.label], width="stretch")
        frame.small(f"{wording_result.ALIKE} Real training images, one a lesion; licence {choice.card.licence}.")
