"""Synthetic images beside real ones: what the audit warns of, accepted and rejected ones with the reason, the closest pairs, the audit's figures."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import artifacts, drawing, frame, marking, nearest, wording, wording_compare, wording_synthetic
from stages.dataset.table import decode, read_table
from stages.imaging.refining import encode_png
from stages.imaging.watermark import encode_marked
from stages.runtime.files import read_json

SHOWN = 6  # images a row, and pairs
SIZE = 128  # px
REAL_BESIDE = ("pairs", "rating")  # the audit's pictures that hold real images
COLUMNS = ["id", "accepted", "reason", "mode", "image"]


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place, diseases = choice.place, sorted(drawing.rare(choice.place, choice.card))
    st.title("Synthetic images")
    frame.phantom_warning(choice)
    st.markdown(f"{wording_synthetic.NO_PATIENT} None is in a test set.")
    frame.withheld(choice)
    here = [disease for disease in diseases if (place.synthetic / disease).exists()]
    if not here:
        st.info(f"No synthetic images here: fetch them with `dvc pull` or build them with `{place.command}`.", icon=":material/info:")
    show_warnings(choice)
    for disease in here:
        show_disease(choice, disease)
    show_audit(choice)


def show_warnings(choice: frame.Choice) -> None:
    """What the audit says must be known before these images are trusted."""
    place, titles = choice.place, {key: entry.title for key, entry in choice.card.classes.items()}
    record = place.reports / "audit.json"
    if stale := artifacts.changed(place, record, place.reports / "audit"):
        lock = place.lock.relative_to(place.root)
        st.warning(f"Not as {lock} records it: {', '.join(stale)}. Rebuild with `{place.command}`.", icon=":material/warning:")
    whole = read_json(record).get("all", {}) if record.exists() else {}
    if told := [*whole.get("stops", []), *whole.get("warnings", [])]:
        lines = "\n".join(f"- {wording.heading(wording_synthetic.spelled(text, titles))}." for text in told)
        st.warning(f"**The audit warns** (shares 0 to 1; brackets: 95% interval):\n\n{lines}", icon=":material/warning:")


def show_disease(choice: frame.Choice, disease: str) -> None:
    """One disease: counts, real images, accepted ones, the closest pairs, rejected ones."""
    place, title = choice.place, choice.card.classes[disease].title
    drawn = read_table(place.synthetic / disease, COLUMNS).sort_values("id")
    accepted, rejected = drawn[drawn["accepted"]], drawn[~drawn["accepted"]]
    st.header(wording.heading(title))
    st.markdown(f"{len(drawn):,} drawn, {len(accepted):,} accepted, {len(rejected):,} rejected.")
    real_here = place.refined.exists() and place.split.exists() and choice.card.show_images
    if real_here:
        show_real(nearest.training(place, disease), title)
    if not accepted.empty:
        st.subheader("Accepted")
        some = spaced(accepted)
        frame.generated(some["image"], [f"{wording_synthetic.GENERATED}, {wording_synthetic.mode(mode)}" for mode in some["mode"]], SIZE)
    if real_here and not accepted.empty:
        show_pairs(place, disease)
    if not rejected.empty:
        show_rejected(rejected)


def show_real(table: pd.DataFrame, title: str) -> None:
    """Some of the training images, for the eye to compare with."""
    if not table.empty:
        st.subheader("Real, from the training images")
        pictures = list(decode(spaced(table)["image"], SIZE))
        st.image(pictures, caption=["Real"] * len(pictures), alt=[f"Real training image, {title}"] * len(pictures), width=SIZE)


def show_pairs(place: artifacts.Place, disease: str) -> None:
    """The closest pairs, synthetic beside real, each in its box; on a telephone they stay side by side."""
    st.subheader("The closest pairs: is one a copy?")
    signature = artifacts.signature(place.synthetic / disease, place.split, place.refined)
    row = st.container(horizontal=True)
    for number, pair in enumerate(_closest(place, disease, signature), start=1):
        with row.container(border=True, width=2 * SIZE + 66):
            captions = [wording_synthetic.GENERATED, "Real training image"]
            synthetic, real = decode([pair.synthetic, pair.real], SIZE)
            st.image([encode_marked(marking.banded(synthetic)), encode_png(real)], caption=captions, alt=captions, width=SIZE)
            frame.small(f"Pair {number}: distance {pair.distance:.3f}; {wording_synthetic.mode(pair.mode)}.")
    beside = _closest_real(place, disease, signature)
    told = "" if beside is None else f" The closest two real training images of different patients or lesions: {beside:.3f}."
    frame.small(wording_synthetic.DISTANCE + told)


@st.cache_data(show_spinner="Looking for the closest training images", max_entries=8)
def _closest(_place: artifacts.Place, disease: str, signature: str) -> list[nearest.Pair]:
    return nearest.closest(_place, disease, SHOWN)


@st.cache_data(show_spinner=False, max_entries=8)
def _closest_real(_place: artifacts.Place, disease: str, signature: str) -> float | None:
    return nearest.closest_real(_place, disease)


def show_rejected(rejected: pd.DataFrame) -> None:
    """How many were rejected for which reason, and some of each."""
    st.subheader("Rejected")
    counts = rejected["reason"].value_counts()
    rows = [(wording.heading(wording_synthetic.reason(str(code))), f"{n:,}") for code, n in counts.items()]
    frame.table(rows, ["Why", "Images"])
    seen = rejected[rejected["image"].notna()]
    some = pd.concat([spaced(part, max(1, SHOWN // len(counts))) for _, part in seen.groupby("reason")]) if len(seen) else seen
    if len(some):
        frame.generated(some["image"], [f"{wording_synthetic.GENERATED}: {wording_synthetic.reason(code)}" for code in some["reason"]], SIZE)


def show_audit(choice: frame.Choice) -> None:
    """The audit's figures, each with what to see in it, and the audit in full."""
    place, titles = choice.place, {key: entry.title for key, entry in choice.card.classes.items()}
    figures, report = sorted((place.reports / "audit").glob("*.png")), place.reports / "audit.md"
    if figures or report.exists():
        st.header("What the audit measured")
        frame.small(wording_compare.keys(titles))
    said = set()
    for path in figures:
        what, _, disease = path.stem.partition("_")
        if what in REAL_BESIDE and not choice.card.show_images:
            continue
        title, told = wording_synthetic.AUDIT.get(what, (wording.heading(path.stem.replace("_", " ")), ""))
        st.subheader(f"{title} {wording.heading(choice.card.classes[disease].title)}." if disease in choice.card.classes else title)
        st.image(path.read_bytes(), alt=title)
        if told not in said:
            st.markdown(told)
        said.add(told)
    if report.exists():
        with st.expander("The audit in full"):
            _, _, text = report.read_text().partition("\n")  # the first line is its title
            frame.document(frame.without_pictures(text).replace("\n## ", "\n#### "), place.reports, titles)


def spaced(table: pd.DataFrame, count: int = SHOWN) -> pd.DataFrame:
    """Up to `count` rows, evenly spaced, so that all kinds are seen."""
    count = min(count, len(table))
    return table.iloc[[len(table) * k // count for k in range(count)]]


show(frame.chosen())
