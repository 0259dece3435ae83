"""One case: whether the model may speak, what it says, how sure it is, why, and what that means for a patient's risk."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import artifacts, frame, measured, opinion, risk, uploads, wording, wording_result, wording_risk
from stages.classifier.prediction import Presence, Result, answer_case
from stages.imaging.decode import Refused
from stages.metrics.verdict import WHAT

SHOWN = 400  # px of the picture on the page
ALIKE = 4  # training images that are shown


class View(NamedTuple):
    """An uploaded file: its name and hash, what the model sees of it, what the page shows, and why it is left out ("" where it is not)."""

    name: str
    digest: str
    seen: NDArray[np.uint8] | None
    shown: NDArray[np.uint8] | None
    reason: str


def show(choice: frame.Choice) -> None:
    """The whole view."""
    st.title("Read an image")
    frame.small(f"{choice.card.title}. Model {choice.regime}: {WHAT.get(choice.regime, 'see its card')}.")
    frame.shortcut_warning(choice)
    content = frame.check(choice)
    uploaded = st.file_uploader(
        f"Image ({choice.card.modality}), or several views of one lesion",
        accept_multiple_files=True,
        help="JPEG, PNG, TIFF, DICOM and others, whatever the name. It is read in memory and forgotten when you leave: nothing is written to disk.",
    )
    predictor = frame.load(choice, content)
    info, views = predictor.info, list[View]()
    if not uploaded:
        st.info("Upload an image to see what the model says of it. Several files are taken as views of one lesion.", icon=":material/upload:")
    elif told := uploads.too_much([file.size for file in uploaded]):
        st.error(told, icon=":material/error:")
    else:
        views = [read_view(file.name, file.getvalue(), predictor.size) for file in uploaded]
        case = hashlib.sha256("".join(view.digest for view in views).encode()).hexdigest() if len(views) > 1 else views[0].digest
        views, result = ask(predictor, views)
        show_refusals(views)
        used = [view for view in views if not view.reason]
        if result is not None:
            show_result(choice, used, result, info)
        if any(view.seen is not None for view in views):
            show_rates(choice, info)
        if result is not None:
            show_why(choice, content, used[0], result)
            show_risk(choice, result, info, case)
            show_report(choice, views, result, info, content)
            opinion.show(choice, case, [view.digest for view in used], result, info, hashes_of(info, content))
    show_use(choice)
    show_hashes(choice, info, content, views)


def read_view(name: str, data: bytes, size: int) -> View:
    """An uploaded file, read in a process of its own."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        seen, shown = uploads.read(data, size, SHOWN)
    except Refused as error:
        return View(name, digest, None, None, str(error))
    return View(name, digest, seen, shown, "")


def ask(predictor: Any, views: list[View]) -> tuple[list[View], Result | None]:
    """The views with the reasons of those on which the model may not speak, and what it says of the case on the others."""
    read = [view for view in views if view.seen is not None]
    if not read:
        return views, None
    reasons, result = answer_case(predictor, np.stack([view.seen for view in read if view.seen is not None]))
    told = iter(reasons)
    return [view if view.seen is None else view._replace(reason=next(told) or "") for view in views], result


def show_refusals(views: list[View]) -> None:
    """May the model speak at all: a line per file that it cannot use."""
    for view in views:
        if view.reason:
            what = "cannot be read by this model" if view.seen is None else "is not read: the model may not speak on it"
            st.error(f"{wording.plain(view.name)} {what}: {wording.plain(view.reason)}", icon=":material/error:")


def show_rates(choice: frame.Choice, info: dict[str, Any]) -> None:
    """How often the model refuses images of its own kind, per diagnosis."""
    if "ood" not in info:
        st.warning("This model cannot tell foreign images from its own: it answers to anything. Train it again.", icon=":material/warning:")
        return
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    with st.expander("On which images it may speak"):
        rates = wording_result.refusal_rates(info["ood"], measured.refused(choice.place, choice.regime), titles)
        st.table(pd.DataFrame(rates, columns=["Diagnosis", "Refused in the calibration set", "Refused on test images"]), hide_index=True)
        frame.small(
            f"It refuses what lies farther from its training images than {100 * (1 - info['ood']['level']):.0f} of 100 calibration images of each "
            "diagnosis do, rare ones too, and what is darker or more blurred than all of them. It may still accept an image of another kind."
        )


def show_result(choice: frame.Choice, views: list[View], result: Result, info: dict[str, Any]) -> None:
    """The pictures, an answer per rare disease, every probability, the conformal sets, and whether to refer."""
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    st.header("What the model says")
    frame.phantom_warning(choice)
    if refer := measured.referral(result, info["thresholds"], titles):
        st.warning(f"**Refer:** {'; '.join(refer)}.", icon=":material/person_search:")
    left, right = st.columns([1, 2], gap="medium")
    size = info["transform"]["size"]
    for shown in [view.shown for view in views if view.shown is not None]:
        left.image(shown, caption=f"The middle square; the model sees it at {size} x {size} px.", alt="The uploaded image", width="stretch")
    with right:
        if len(views) > 1:
            st.markdown(f"One case of {len(views)} views: probabilities are their mean.")
        told = measured.shares(choice.place, choice.regime)
        for disease, answer in result.present.items():
            show_presence(choice, disease, answer, result, info, told.get(disease, {}))
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
        st.markdown(wording_result.conformal(coverage, names, titles))
    frame.small(
        "Such a list covers the true diagnosis in that share of patients on average, whatever the diagnosis, "
        "for patients like those in the calibration set. It promises nothing for others."
    )


def prior_key(choice: frame.Choice, disease: str) -> str:
    """Where the session keeps the prevalence that was entered for a disease."""
    return f"prior {choice.place.name} {disease}"


def show_presence(
    choice: frame.Choice, disease: str, answer: Presence, result: Result, info: dict[str, Any], tested: dict[str, measured.Share | None]
) -> None:
    """Present, not present or cannot say, the frequency behind it, how often such an answer is right, the lesions its threshold stands on."""
    title = choice.card.classes[disease].title
    word, icon, colour = wording_result.PRESENCE[answer]
    with st.container(border=True):
        st.subheader(f"{wording.heading(title)}: :{colour}[{icon} {word}]", anchor=False)
        st.markdown(wording_result.frequency(result.probabilities[disease], title, *result.spread[disease], len(info["seeds"])))
        default, origin = risk.default_prior(choice.card.risk, disease, info["prior_cal"])
        percent = st.number_input(
            f"Of 100 such patients, how many have {title} (before answers and image)",
            min_value=0.0001,
            max_value=99.0,
            value=float(f"{100 * default:.3g}"),
            step=0.1,
            format="%.4g",
            key=prior_key(choice, disease),
            help=f"Preset: {origin}. Enter the share among your own patients.",
        )
        if line := wording_result.right(answer, measured.value_of_answer(answer, tested, percent / 100), percent / 100):
            st.markdown(line)
        frame.small(wording_result.tested(title, tested))
        frame.small(wording_result.basis(info["thresholds"][disease]))


def show_why(choice: frame.Choice, content: str, view: View, result: Result) -> None:
    """The map of what moves the answer, and the training images that are most alike to the model."""
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    st.header("Why")
    explainer, classes = frame.explainer(choice, content), list(result.probabilities)
    if view.seen is None or view.shown is None:
        return
    left, right = st.columns([1, 2], gap="medium")
    with right:
        asked = st.selectbox("What speaks for", classes, index=classes.index(result.predicted), format_func=lambda c: wording.heading(titles[c]))
        strength = st.slider("Strength of the map", 0, 100, 60, format="%d%%")
        st.markdown(wording_result.NO_PROOF)
    warmth = explainer.heat(view.seen, classes.index(asked))
    left.image(frame.overlay(view.shown, warmth, strength / 100), caption=f"What speaks for {titles[asked]}: orange.", alt="Map", width="stretch")
    if not choice.place.refined.exists() or not choice.place.split.exists():
        frame.small(f"The training images are not here: fetch them with `dvc pull` or build them with `{choice.place.command}`.")
    elif st.toggle("Show the most similar training images"):
        for column, one in zip(st.columns(ALIKE), explainer.alike(view.seen, ALIKE), strict=False):
            column.image(
                one.picture, caption=f"{wording.heading(titles[one.label])} (similarity {one.similarity:.2f})", alt=titles[one.label], width="stretch"
            )
        frame.small(f"{wording_result.ALIKE} Real training images, one a lesion; licence {choice.card.licence}.")


def show_report(choice: frame.Choice, views: list[View], result: Result, info: dict[str, Any], content: str) -> None:
    """The case as PDF and JSON."""
    from app import document

    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    st.header("Report")
    files = [{"name": view.name, "sha256": view.digest, "reason": view.reason} for view in views]
    told = document.record(choice.card, choice.regime, files, result, measured.referral(result, info["thresholds"], titles), hashes_of(info, content))
    view = next(view for view in views if not view.reason)
    if view.seen is None or view.shown is None:
        return
    picture, seen, explainer = view.shown, view.seen, frame.explainer(choice, content)
    limits = [wording_result.NO_PROOF, *wording.must_not(choice.card, artifacts.base_of(choice.place))]

    def pdf() -> bytes:
        """Made when it is asked for: it takes longer than all else on the page."""
        warmth = explainer.heat(seen, list(result.probabilities).index(result.predicted))
        pictures = {"The image": picture, f"What speaks for {titles[result.predicted]} (no proof)": frame.overlay(picture, warmth, 0.6)}
        return document.as_pdf(told, titles, pictures, limits)

    left, right = st.columns(2)
    left.download_button("Report as PDF", pdf, "rarelens.pdf", "application/pdf", width="stretch")
    right.download_button("Report as JSON", document.as_json(told), "rarelens.json", "application/json", width="stretch")
    frame.small("The report holds the picture and its file name: handle it as you handle the patient's file.")


def hashes_of(info: dict[str, Any], content: str) -> dict[str, str]:
    """What the model is made of, by hash."""
    return {
        "model (md5)": content,
        "split (sha256)": info["split_sha256"],
        "training images (sha256)": info["mix_sha256"],
        "base (sha256)": info["base_hash"],
    }


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
        show_disease_risk(choice, disease, result, answers, info)
    frame.small(f"{wording_risk.INDEPENDENCE} {wording_risk.INTERVALS}")


def show_disease_risk(choice: frame.Choice, disease: str, said: Result, answers: dict[str, risk.Answer], info: dict[str, Any]) -> None:
    """One disease: the entered prior, three steps, level, where each ratio comes from, and what another answer would change."""
    card, title, n_cal = choice.card, choice.card.classes[disease].title, info["n_cal"]
    spread = said.spread[disease] if len(info["seeds"]) > 1 else None
    image = risk.image_ratio(said.probabilities[disease], info["prior_cal"][disease], n_cal[disease], sum(n_cal.values()) - n_cal[disease], spread)
    with st.container(border=True):
        percent = float(st.session_state[prior_key(choice, disease)])  # entered above, beside the answer
        found = risk.findings(disease, card.symptoms, answers)
        result = risk.assess(percent / 100, found, image, card.risk)
        word, icon, colour = wording_risk.LEVEL[result.level]
        st.subheader(f"{wording.heading(title)}: :{colour}[{icon} {word}]", anchor=False)
        st.table(pd.DataFrame(wording_risk.steps(result), columns=["Step", "Chance", "Interval", "Of 1,000 such patients"]), hide_index=True)
        reach = wording_risk.reach([risk.level(p, card.risk) for p in result.after_image_interval])
        frame.small(f"{reach}Low is under {wording.percent(card.risk.low)}, high from {wording.percent(card.risk.high)} on (the card's cut-offs).")
        st.table(
            pd.DataFrame(wording_risk.evidence(found, image, n_cal[disease]), columns=["Evidence", "Multiplies the odds by", "Interval", "Source"]),
            hide_index=True,
        )
        if any(f.example for f in found):
            st.warning(wording_risk.EXAMPLE, icon=":material/science:")
        other = risk.what_if(percent / 100, disease, card.symptoms, answers, image, card.risk)
        if rows := wording_risk.changed_answers({key: symptom.question for key, symptom in card.symptoms.items()}, answers, other):
            st.markdown("**If one answer were another**, the chance after the image would be:")
            st.table(pd.DataFrame(rows, columns=["Question", "Yes", "No", "Not asked"]), hide_index=True)


def show_use(choice: frame.Choice) -> None:
    """What the page is for, and what it must not be used for."""
    st.header("Use")
    may, must_not = st.columns(2)
    may.subheader("Intended")
    may.markdown("\n".join(f"- {line}" for line in [wording.NOTICE, *wording.intended(choice.card)]))
    must_not.subheader("Must not be used")
    must_not.markdown("\n".join(f"- {line}" for line in wording.must_not(choice.card, artifacts.base_of(choice.place))))


def show_hashes(choice: frame.Choice, info: dict[str, Any], content: str, views: list[View]) -> None:
    """Which model and which data gave the result."""
    st.header("Where this comes from")
    lock = choice.place.lock.relative_to(choice.place.root).as_posix()
    frame.small(f"The model is the one that {lock} records; it was compared when it was loaded.")
    hashes = hashes_of(info, content)
    for number, view in enumerate(views, start=1):
        hashes["this image (sha256)" if len(views) == 1 else f"image {number} (sha256)"] = view.digest
    st.code("\n".join(f"{name}: {value}" for name, value in hashes.items()), language=None, wrap_lines=True)


show(frame.chosen())
