"""What every view shares: the choice of data set and model, the notice, and models loaded once for all sessions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import artifacts, marking, measured, wording, wording_compare
from stages.dataset.card import Card, read_card
from stages.dataset.table import decode
from stages.imaging.watermark import encode_marked
from stages.runtime.errors import UserError

if TYPE_CHECKING:  # imports torch
    from app.explain import Explainer
    from stages.classifier.predictor import Predictor

CHOICE = "choice"
UPLOADED = "uploaded"  # the present patient's files, as they were read
READ_AT = "read at"  # which case was read, and when
BLOCK = re.compile(r"!\[(?P<alt>[^]]*)]\((?P<path>[^)]+)\)|(?P<table>(?:^\|.*\|[ ]*(?:\n|\Z)){3,})", re.MULTILINE)  # a picture, or a whole table
CELLS = re.compile(r"(?<!\\)\|")
WIDE = 3  # columns that 380 px hold


@dataclass(frozen=True)
class Choice:
    """The data set and regime that are shown; `regime` is one that may not have been trained yet."""

    place: artifacts.Place
    card: Card
    regime: str


def stop(error: UserError) -> NoReturn:
    """Say what is wrong and what to do, and show no more."""
    st.error(str(error), icon=":material/error:")
    st.stop()


def choose() -> Choice:
    """Data set and regime from the sidebar; what does not change while a session reads is remembered for the views."""
    try:
        known = {p.name: p for p in artifacts.places(artifacts.root())}
        with st.sidebar:
            st.markdown(f"**{wording.NOTICE}**")
            name = st.selectbox("Data set", list(known), key="dataset")
            place = known[name]
            card = read_card(place.card)
            candidate = artifacts.candidate(place)
            regimes = sorted({candidate, *place.regimes()}, key=lambda r: (r != candidate, r))
            marked = {r: f"{r} (the candidate)" if r == candidate else r for r in regimes}
            regime = st.selectbox("Model", regimes, format_func=lambda r: marked[r], key=f"regime {name}")
            small(f"Trained on: {told}." if (told := wording_compare.regime(regime)) else "")
    except UserError as error:
        stop(error)
    st.session_state[CHOICE] = Choice(place, card, regime)
    return Choice(place, card, regime)


def chosen() -> Choice:
    """The choice that the router made in this run."""
    choice: Choice = st.session_state[CHOICE]
    return choice


def forget() -> None:
    """Drop what this session has read of the present patient's files."""
    st.session_state.pop(UPLOADED, {}).clear()
    st.session_state.pop(READ_AT, None)


def notice(choice: Choice) -> None:
    """The line that stays in sight, whatever is scrolled."""
    text = f"{wording.NOTICE} {wording.PHANTOM}" if choice.card.phantom else wording.NOTICE
    st.bottom.markdown(f":material/info: **{text}**")


def small(text: str) -> None:
    """Small print at full contrast (st.caption is grey)."""
    st.markdown(f":small[{text}]")


def phantom_warning(choice: Choice) -> None:
    """Stands above every result of a model that has seen drawings only."""
    if choice.card.phantom:
        st.warning(f"**{wording.PHANTOM}** {choice.card.title}.", icon=":material/warning:")


def shortcut_warning(choice: Choice) -> None:
    """Stands above every result on data where the audit found that a model can score well without seeing the disease."""
    for warning in measured.shortcuts(choice.place):
        st.warning(f"**{wording.heading(warning)}.**", icon=":material/warning:")


def withheld(choice: Choice) -> None:
    """That the licence keeps real images of the data set from being shown, where `show_images` of the card says so."""
    if not choice.card.show_images:
        small(f"Real images are not shown: the card says that their licence does not permit it ({choice.card.licence}).")


def document(text: str, folder: Path, titles: Mapping[str, str]) -> None:
    """A Markdown report whose pictures lie in `folder`, each in its place; one that is not here is named. Tables have `titles` for classes' keys."""
    end = 0
    for found in BLOCK.finditer(text):
        st.markdown(text[end : found.start()])
        end = found.end()
        if found["table"]:
            markdown_table(found["table"], titles)
        elif (picture := folder / found["path"]).exists():
            st.image(picture.read_bytes(), caption=found["alt"], alt=found["alt"])
        else:
            small(f"{found['alt']}: {found['path']} is not here (`dvc pull` fetches it).")
    st.markdown(text[end:])


def without_pictures(text: str) -> str:
    """A Markdown report without its pictures."""
    return BLOCK.sub(lambda found: found["table"] or "", text)


def markdown_table(lines: str, titles: Mapping[str, str]) -> None:
    """A Markdown table; a cell that is a class's key alone has its title."""
    head, _, *rows = ([cell.strip().replace(r"\|", "|") for cell in CELLS.split(line.strip().strip("|"))] for line in lines.splitlines())
    shown = [[titles.get(cell, cell) for cell in row] for row in rows]
    table(shown, [wording.heading(name) for name in head])


def table(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> None:
    """A table of `rows` under `columns`; of a wide one it is said that a telephone shows it in part."""
    st.table(pd.DataFrame(rows, columns=list(columns)), hide_index=True)
    if len(columns) > WIDE:
        small("On a telephone this table scrolls sideways.")


def generated(images: Iterable[bytes], captions: Sequence[str], side: int = 128) -> None:
    """AI-generated images (encoded) in a row that wraps, `side` px, under captions that say what they are; saved from the page they say it too, in
    the picture and in the file.
    """
    shown = [encode_marked(marking.banded(image)) for image in decode(images, side)]
    st.image(shown, caption=list(captions), alt=list(captions), width=side)


def check(choice: Choice) -> str:
    """The hash of the chosen model, which is the one in the lock; otherwise the page says what is wrong and stops."""
    folder = choice.place.models / choice.regime
    try:
        return _checked(choice.place, str(folder), artifacts.signature(folder, choice.place.lock))
    except UserError as error:
        stop(error)


def load(choice: Choice, content: str) -> Predictor:
    """The chosen model, whose hash is `content`; where it cannot be used or has seen a sealed group the page says so and stops."""
    place = choice.place
    try:
        return _loaded(place, choice.regime, content, artifacts.dvc_hash(place.split) if place.split.exists() else "")
    except UserError as error:
        stop(error)


def explainer(choice: Choice, content: str) -> Explainer:
    """The networks' copies of the chosen model that maps are drawn with, one for all sessions."""
    return _explainer(choice.place, content, load(choice, content))


def overlay(picture: NDArray[np.uint8], warmth: NDArray[np.float32], strength: float) -> NDArray[np.uint8]:
    """`explain.overlay`, without torch being imported before a page is painted."""
    from app import explain

    return explain.overlay(picture, warmth, strength)


@st.cache_resource(show_spinner="Preparing the map", max_entries=2)
def _explainer(_place: artifacts.Place, content: str, _predictor: Predictor) -> Explainer:
    from app.explain import Explainer

    return Explainer(_predictor, _place)


@st.cache_data(show_spinner="Checking the model", max_entries=32)
def _checked(_place: artifacts.Place, folder: str, signature: str) -> str:
    return artifacts.check(_place, Path(folder).name)


@st.cache_resource(show_spinner="Loading the model", max_entries=4)
def _loaded(_place: artifacts.Place, _regime: str, content: str, split: str) -> Predictor:
    return artifacts.load(_place, _regime, content)
