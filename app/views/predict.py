"""One case: whether the model may speak, what it says, how sure it is, why, and what that means for a patient's risk."""

from __future__ import annotations

import hashlib
from typing import Any

import streamlit as st

from app import artifacts, frame, measured, uploads, wording, wording_compare, wording_result
from app.reading import opinion, report, result, risks, why
from app.reading.case import Case, View, alone, ask, hashes, read_view

PATIENT = "patient"  # counts them in a session


def show(choice: frame.Choice) -> None:
    """The whole view."""
    st.title("Read an image")
    frame.small(f"{choice.card.title}. Model {choice.regime}: {wording_compare.regime(choice.regime) or 'see its card'}.")
    frame.shortcut_warning(choice)
    content = frame.check(choice)
    turn = st.session_state.setdefault(PATIENT, 0)
    uploaded = st.file_uploader(
        f"Image ({choice.card.modality}), or several views of one lesion",
        accept_multiple_files=True,
        key=f"upload {turn}",
        help="JPEG, PNG, TIFF, DICOM and others, whatever the name; of a file with several frames the first. "
        "It is read in memory and forgotten when you leave: nothing is written to disk.",
    )
    if uploaded:
        st.button("Next patient: take these images away", on_click=next_patient, icon=":material/person_add:")
    predictor = frame.load(choice, content)
    info, views = predictor.info, list[View]()
    told = uploads.too_much([file.size for file in uploaded])
    if told or not uploaded:
        frame.forget()
    if not uploaded:
        st.info("Upload an image to see what the model says of it. Several files are taken as views of one lesion.", icon=":material/upload:")
    elif told:
        st.error(told, icon=":material/error:")
    else:
        files = {hashlib.sha256(data).digest(): (file.name, data) for file in reversed(uploaded) for data in [file.getvalue()]}
        if len(files) < len(uploaded):
            st.warning("The same file was given more than once: it counts once.", icon=":material/content_copy:")
        views, said = ask(predictor, read_once(list(reversed(files.values())), predictor.size))
        show_refusals(views)
        case = None if said is None else Case(choice, content, info, views, said, alone(predictor, views))
        if case:
            result.show(case)
        if any(view.picture for view in views):
            show_rates(choice, info)
        if case:
            why.show(case)
            report.show(case, risks.show(case))
            opinion.show(case)
    show_use(choice)
    show_hashes(choice, info, content, views)


def read_once(files: list[tuple[str, bytes]], size: int) -> list[View]:
    """`read_view` of (name, bytes) each, but for what this session read before and still shows: every click runs the page anew."""
    known: dict[tuple[str, str, int], View] = st.session_state.setdefault(frame.UPLOADED, {})
    keys = [(name, hashlib.sha256(data).hexdigest(), size) for name, data in files]
    views = [known.get(key) or read_view(*one, size) for key, one in zip(keys, files, strict=True)]
    known.clear()  # in place: Streamlit may hold on to what a session's state was
    # What could not be read is tried again: it may have been the machine's fault.
    known.update({key: view for key, view in zip(keys, views, strict=True) if view.picture is not None})
    return views


def next_patient() -> None:
    """An empty uploader, so that the next patient's image is no further view of this one's lesion."""
    st.session_state[PATIENT] += 1


def show_refusals(views: list[View]) -> None:
    """May the model speak at all: a line per file that it cannot use, or used in part."""
    for view in views:
        if view.note:
            st.warning(f"{wording.plain(view.name)}: {view.note}.", icon=":material/burst_mode:")
        if view.reason:
            what = "cannot be read by this model" if view.picture is None else "is not read: the model may not speak on it"
            st.error(f"{wording.plain(view.name)} {what}: {wording.plain(view.reason)}", icon=":material/error:")
            if view.picture is not None:
                st.image(view.picture.shown, "The middle square of it, which the model was asked to read", width=200)


def show_rates(choice: frame.Choice, info: dict[str, Any]) -> None:
    """How often the model refuses images of its own kind, per diagnosis."""
    if "ood" not in info:
        st.warning("This model cannot tell foreign images from its own: it answers to anything. Train it again.", icon=":material/warning:")
        return
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    with st.expander("On which images it may speak"):
        rates = wording_result.refusal_rates(info["ood"], measured.refused(choice.place, choice.regime), titles)
        frame.table(rates, ["Diagnosis", "Refused in the calibration set", "Refused on test images"])
        frame.small(
            f"It refuses what lies farther from its training images than {100 * (1 - info['ood']['level']):.0f} of 100 calibration images do, measured "
            "by how widely each diagnosis scatters; and what is darker or more blurred than all of them. Of a diagnosis with few calibration images "
            "it may refuse more: the table says how many it did. "
            "It may still accept an image of another kind."
        )


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
    told = hashes(info, content)
    for number, view in enumerate(views, start=1):
        told["this image (sha256)" if len(views) == 1 else f"image {number} (sha256)"] = view.digest
    st.code("\n".join(f"{name}: {value}" for name, value in told.items()), language=None, wrap_lines=True)


show(frame.chosen())
