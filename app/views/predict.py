"""One image: what the model says of it, how sure it is, and what that means for a patient's risk."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import artifacts, frame, risk, wording
from stages.classifier.prediction import Result, predict
from stages.classifier.reading import read_guarded
from stages.imaging.decode import Refused
from stages.metrics.verdict import WHAT

SHOWN = 400  # px of the picture on the page


def show(choice: frame.Choice) -> None:
    """The whole view."""
    st.title("Read an image")
    frame.small(f"{choice.card.title}. Model {choice.regime}: {WHAT.get(choice.regime, 'see its card')}.")
    frame.shortcut_warning(choice)
    content = frame.check(choice)
    uploaded = st.file_uploader(
        f"Image ({choice.card.modality})",
        help="JPEG, PNG, TIFF, DICOM and others, whatever the name. It is read in memory and forgotten when you leave: nothing is written to disk.",
    )
    predictor = frame.load(choice, content)
    digest = ""
    if uploaded is None:
        st.info("Upload an image to see what the model says of it.", icon=":material/upload:")
    else:
        data = uploaded.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        try:
            seen, shown = read_guarded(data, predictor.size, SHOWN)
            result = predict(predictor, seen[None])[0]
            show_result(choice, shown, result, predictor.info)
            show_risk(choice, result, predictor.info, digest)
        except Refused as error:
            st.error(f"{wording.plain(uploaded.name)} cannot be read by this model: {wording.plain(str(error))}", icon=":material/error:")
    show_use(choice)
    show_hashes(choice, predictor.info, content, digest)


def show_result(choice: frame.Choice, picture: NDArray[np.uint8], result: Result, info: dict[str, Any]) -> None:
    """The picture, an answer per rare disease, every probability, the conformal sets."""
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    st.header("What the model says")
    frame.phantom_warning(choice)
    left, right = st.columns([1, 2], gap="medium")
    size = info["transform"]["size"]
    left.image(picture, caption=f"The middle square; the model sees it at {size} x {size} px.", alt="The uploaded image", width="stretch")
    with right:
        for disease, answer in result.present.items():
            show_presence(titles[disease], disease, answer, result, info)
    st.subheader("Every diagnosis it knows")
    ranked = sorted(result.probabilities, key=lambda name: -result.probabilities[name])
    rows = [(wording.heading(titles[n]), wording.of_1000(result.probabilities[n]), wording.span(*result.spread[n])) for n in ranked]
    st.table(pd.DataFrame(rows, columns=["Diagnosis", "Of 1,000 images like this", f"Range over {len(info['seeds'])} models"]), hide_index=True)
    frame.small(
        "“Like this” means: scored the same by the model, in a population with the mix of diagnoses of the calibration set. "
        "The model is a team trained from different seeds; a wide range means that they disagree."
    )
    st.subheader("Diagnoses it cannot exclude")
    for coverage, names in result.conformal.items():
        st.markdown(wording.conformal(coverage, names, titles))
    frame.small(
        "Such a list names the true diagnosis in that share of patients on average, whatever the diagnosis, "
        "for patients like those in the calibration set. It promises nothing for others."
    )


def show_presence(title: str, disease: str, answer: Any, result: Result, info: dict[str, Any]) -> None:
    """Present, not present or cannot say, with the frequency behind it and the lesions its threshold stands on."""
    word, icon, colour = wording.PRESENCE[answer]
    with st.container(border=True):
        st.subheader(f"{wording.heading(title)}: :{colour}[{icon} {word}]", anchor=False)
        st.markdown(wording.frequency(result.probabilities[disease], title, *result.spread[disease], len(info["seeds"])))
        frame.small(wording.basis(info["thresholds"][disease]))


def show_risk(choice: frame.Choice, result: Result, info: dict[str, Any], digest: str) -> None:
    """The symptom form and, per rare disease, the risk before anything, after the answers and after the image."""
    card = choice.card
    st.header("Risk, with what you know of the patient")
    frame.phantom_warning(choice)
    answers: dict[str, risk.Answer] = {}
    for key, symptom in card.symptoms.items():
        # The image is part of the key: another patient's image does not inherit these answers.
        said = st.radio(symptom.question, ["not asked", "yes", "no"], format_func=str.capitalize, horizontal=True, key=f"{key} {digest}")
        if said in ("yes", "no"):
            answers[key] = "yes" if said == "yes" else "no"
    for disease in result.present:
        show_disease_risk(choice, disease, result.probabilities[disease], answers, info)
    frame.small(wording.INDEPENDENCE)


def show_disease_risk(choice: frame.Choice, disease: str, p: float, answers: dict[str, risk.Answer], info: dict[str, Any]) -> None:
    """One disease: editable prior, three steps, level, and where each ratio comes from."""
    card, title, n_cal = choice.card, choice.card.classes[disease].title, info["n_cal"]
    image = risk.image_ratio(p, info["prior_cal"][disease], n_cal[disease], sum(n_cal.values()) - n_cal[disease])
    default, origin = risk.default_prior(card.risk, disease, info["prior_cal"])
    with st.container(border=True):
        heading = st.empty()  # the level is known once the prior is
        percent = st.number_input(
            f"Of 100 such patients, how many have {title} (before answers and image)",
            min_value=0.0001,
            max_value=99.0,
            value=float(f"{100 * default:.3g}"),
            step=0.1,
            format="%.4g",
            key=f"prior {choice.place.name} {disease}",
            help=f"Preset: {origin}. Enter the share among your own patients.",
        )
        found = risk.findings(disease, card.symptoms, answers)
        result = risk.assess(percent / 100, found, image, card.risk)
        word, icon, colour = wording.LEVEL[result.level]
        heading.subheader(f"{wording.heading(title)}: :{colour}[{icon} {word}]", anchor=False)
        steps = [("Before", result.prior), ("After the answers", result.after_symptoms), ("After the image", result.after_image)]
        rows = [(name, wording.percent(value), wording.of_1000(value)) for name, value in steps]
        st.table(pd.DataFrame(rows, columns=["Step", "Chance", "Of 1,000 such patients"]), hide_index=True)
        frame.small(f"Low is under {wording.percent(card.risk.low)}, high from {wording.percent(card.risk.high)} on (the card's cut-offs).")
        st.table(
            pd.DataFrame(wording.evidence(found, image, n_cal[disease]), columns=["Evidence", "Multiplies the odds by", "Interval", "Source"]),
            hide_index=True,
        )
        if any(f.example for f in found):
            st.warning(wording.EXAMPLE, icon=":material/science:")


def show_use(choice: frame.Choice) -> None:
    """What the page is for, and what it must not be used for."""
    st.header("Use")
    may, must_not = st.columns(2)
    may.subheader("Intended")
    may.markdown("\n".join(f"- {line}" for line in [wording.NOTICE, *wording.intended(choice.card)]))
    must_not.subheader("Must not be used")
    must_not.markdown("\n".join(f"- {line}" for line in wording.must_not(choice.card, artifacts.base_of(choice.place))))


def show_hashes(choice: frame.Choice, info: dict[str, Any], content: str, image: str) -> None:
    """Which model and which data gave the result."""
    st.header("Where this comes from")
    lock = choice.place.lock.relative_to(choice.place.root).as_posix()
    frame.small(f"The model is the one that {lock} records; it was compared when it was loaded.")
    hashes = {
        "model (md5)": content,
        "split (sha256)": info["split_sha256"],
        "training images (sha256)": info["mix_sha256"],
        "base (sha256)": info["base_hash"],
    }
    if image:
        hashes["this image (sha256)"] = image
    st.code("\n".join(f"{name}: {value}" for name, value in hashes.items()), language=None, wrap_lines=True)


show(frame.chosen())
