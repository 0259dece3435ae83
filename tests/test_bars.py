"""The bars of the base: the probe reads what a prompt asked for where images show it, and nothing where they do not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.diffusion import bars
from stages.imaging import corpus
from stages.imaging.phantoms import COMMON, SITES, SKIN_TONES

BACKBONE = Path(__file__).parents[1] / "models/base/backbone"
SIZE, N, FRESH = 32, 60, 180


def test_portraits_hold_every_tone_site_and_class_alike() -> None:
    _, lesions = corpus.portraits(150, 8, "test/portraits", processes=1)
    assert len({(x.skin_tone, x.site, x.label) for x in lesions}) == len(SKIN_TONES) * len(SITES) * len(COMMON)
    _, lesions = corpus.portraits(30, 8, "test/portraits", ("df",), processes=1)
    assert len({(x.skin_tone, x.site) for x in lesions}) == len(SKIN_TONES) * len(SITES) and {x.label for x in lesions} == {"df"}


def test_obedience_is_seen_where_it_is_and_chance_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "portraits", cache(corpus.portraits))
    drawings, _ = corpus.portraits(N, SIZE, "test/obedient", processes=1)  # the same tones and sites in the same order: perfect obedience

    def obeys(pipe: object, prompts: list[str], *_: float) -> NDArray[np.uint8]:
        assert prompts[0] == "a dermoscopic image of an actinic keratosis on the back on very light skin"
        return drawings

    monkeypatch.setattr(bars, "sample", obeys)
    found = bars.attributes_obeyed(None, BACKBONE, SIZE, n=N, fresh=FRESH)
    tone, site = found["skin_tone"], found["site"]
    assert tone["samples"]["low"] > tone["chance"] and tone["samples"]["n"] == N
    assert site["samples"]["low"] < site["chance"] and site["drawings"]["low"] < site["chance"], "no pixel depends on the site"
    monkeypatch.setattr(bars, "sample", lambda *_: np.roll(drawings, 3, axis=0))  # every tone but the one that was asked for
    assert bars.attributes_obeyed(None, BACKBONE, SIZE, n=N, fresh=FRESH)["skin_tone"]["samples"]["high"] < tone["samples"]["low"]
