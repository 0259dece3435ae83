"""Synthetic images beside real ones: accepted, rejected with the reason, and those that lie closest to a training image."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import frame, wording
from stages.dataset.table import decode, read_table
from stages.dataset.groups import read_split
from stages.runtime.params import read_params

SHOWN = 6  # images a row
SIZE = 128  # px
COLUMNS = ["id", "label", "accepted", "reason", "mode", "nearest_train_distance", "image"]
REASONS = {"judge": "the judge did not take it for the disease"}


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place, diseases = choice.place, sorted(read_params(choice.place.root / "params.yaml").rare)
    st.title("Synthetic images")
    frame.phantom_warning(choice)
    st.markdown("Every image marked **AI-generated** was drawn by a diffusion model. None shows a patient, and none is in a test set.")
    here = [disease for disease in diseases if (place.synthetic / disease).exists()]
    if not here:
        st.info(f"No synthetic images here: fetch them with `dvc pull` or build them with `{place.command}`.", icon=":material/info:")
    for disease in here:
        show_disease(choice, disease)
    for figure in sorted((place.reports / "audit").glob("*.png")):
        title = wording.heading(figure.stem.replace("_", " "))
        st.image(figure.read_bytes(), caption=title, alt=title)


def show_disease(choice: frame.Choice, disease: str) -> None:
    """One disease: counts, then rows of pictures."""
    place, title = choice.place, choice.card.classes[disease].title
    drawn = read_table(place.synthetic / disease, COLUMNS).sort_values("id")
    accepted, rejected = drawn[drawn["accepted"]], drawn[~drawn["accepted"]]
    st.header(wording.heading(title))
    st.markdown(f"{len(drawn):,} drawn, {len(accepted):,} accepted, {len(rejected):,} rejected.")
    if place.refined.exists() and place.split.exists():
        split = read_split(place.split)
        own = set(split.loc[(split["split"] == "train") & (split["label"] == disease), "id"])
        real = read_table(place.refined, ["id", "image"])
        row("Real, from the training images", real[real["id"].isin(own)].sort_values("id"), ["real"] * SHOWN)
    row("Accepted", accepted, ["AI-generated"] * SHOWN)
    close = accepted.sort_values("nearest_train_distance", kind="stable").head(SHOWN)
    row(
        "Accepted, closest to a training image first",
        close,
        [f"AI-generated, distance {value:.2f}" for value in close["nearest_train_distance"]],
        evenly=False,
    )
    seen = rejected[rejected["image"].notna()].groupby("reason").head(SHOWN).head(SHOWN)
    row("Rejected", seen, [f"AI-generated: {REASONS.get(reason, reason)}" for reason in seen["reason"]], evenly=False)


def row(title: str, table: pd.DataFrame, captions: list[str], evenly: bool = True) -> None:
    """Up to SHOWN pictures of `table` under their captions, evenly spaced over its rows or the first ones."""
    if table.empty:
        return
    count = min(SHOWN, len(table))
    chosen = table["image"].iloc[[len(table) * k // count for k in range(count)] if evenly else list(range(count))]
    st.subheader(title)
    st.image(list(decode(chosen, SIZE)), caption=captions[:count], alt=captions[:count], width=SIZE)


show(frame.chosen())
