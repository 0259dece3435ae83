"""A case as the page has it: the uploaded views of one lesion, what the model says of them, and which model that is."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from app import frame, measured, uploads
from stages.classifier.prediction import Result, answer_case, predict
from stages.imaging.decode import Refused

if TYPE_CHECKING:  # imports torch
    from stages.classifier.predictor import Predictor

SHOWN = 400  # px of the picture on the page


class Picture(NamedTuple):
    """The middle square of an image, (H, W, 3) uint8: as the model sees it and as the page shows it."""

    seen: NDArray[np.uint8]
    shown: NDArray[np.uint8]


class View(NamedTuple):
    """An uploaded file: its name and hash, its picture (None where it cannot be read), why it is left out, and what must be known of how it was
    read ("" each where there is nothing to say).
    """

    name: str
    digest: str
    picture: Picture | None
    reason: str
    note: str = ""


@dataclass(frozen=True)
class Case:
    """Views of one lesion, on at least one of which the model may speak, and its `result`; `content` is the model's hash, `info` its model.json,
    `by_view` the diagnosis that each used view alone would have, where there are several.
    """

    choice: frame.Choice
    content: str
    info: dict[str, Any]
    views: list[View]
    result: Result
    by_view: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The hash of the file, of several the hash of their hashes."""
        digests = [view.digest for view in self.views]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def read_at(self) -> str:
        """When this session read it, UTC: it stays, however often the page is drawn anew, until another case is read."""
        name = f"{self.digest} {self.content}"
        if st.session_state.get(frame.READ_AT, ("", ""))[0] != name:
            st.session_state[frame.READ_AT] = (name, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
        return str(st.session_state[frame.READ_AT][1])

    @property
    def used(self) -> list[View]:
        """The views on which the model may speak."""
        return [view for view in self.views if not view.reason]

    @property
    def pictures(self) -> list[Picture]:
        """The pictures of the used views."""
        return [view.picture for view in self.used if view.picture is not None]

    @property
    def titles(self) -> dict[str, str]:
        """The diagnoses in words, by class key."""
        return {key: entry.title for key, entry in self.choice.card.classes.items()}

    @property
    def refer(self) -> list[str]:
        """Why a person should decide, in words."""
        told = measured.referral(self.result, self.info["thresholds"], self.titles)
        if len(set(self.by_view)) > 1:
            each = ", ".join(f"{view.name} {self.titles[name]}" for view, name in zip(self.used, self.by_view, strict=True))
            told.append(f"its views disagree: {each}")
        return told

    @property
    def hashes(self) -> dict[str, str]:
        """`hashes` of the model."""
        return hashes(self.info, self.content)


def hashes(info: dict[str, Any], content: str) -> dict[str, str]:
    """What the model with the hash `content` and the model.json `info` is made of."""
    return {
        "model (md5)": content,
        "split (sha256)": info["split_sha256"],
        "training images (sha256)": info["mix_sha256"],
        "base (sha256)": info["base_hash"],
    }


def read_view(name: str, data: bytes, size: int) -> View:
    """An uploaded file, read in a process of its own; the model sees it at `size` px."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        found = uploads.read(data, size, SHOWN)
        return View(name, digest, Picture(*found.views), "", uploads.first_of(found.frames))
    except Refused as error:
        return View(name, digest, None, str(error))


def alone(predictor: Predictor, views: list[View]) -> tuple[str, ...]:
    """The diagnosis of each of the used views by itself; () where there is one alone."""
    used = [view.picture.seen for view in views if view.picture is not None and not view.reason]
    return tuple(result.predicted for result in predict(predictor, np.stack(used))) if len(used) > 1 else ()


def ask(predictor: Predictor, views: list[View]) -> tuple[list[View], Result | None]:
    """The views with the reasons of those on which the model may not speak, and what it says of the case on the others."""
    read = [view.picture.seen for view in views if view.picture is not None]
    if not read:
        return views, None
    reasons, result = answer_case(predictor, np.stack(read))
    told = iter(reasons)
    return [view if view.picture is None else view._replace(reason=next(told) or "") for view in views], result
