"""From an image to what may be said of it; shared by `stages.predict` and the page, so that both say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.classifier.calibration import conformal_set
from stages.classifier.predictor import Predictor

Presence = Literal["yes", "no", "cannot say"]
COVERAGE = "0.90"  # of the conformal set in the table of `stages.predict`


@dataclass(frozen=True)
class Result:
    """What the ensemble says of one image. Probabilities are calibrated, 0..1, by class key.

    `spread` holds the least and the greatest probability among the ensemble's members. `present` answers per rare disease.
    `conformal` gives per coverage ("0.90") the classes in the set; None where the calibration set was too small to offer one.
    """

    predicted: str
    probabilities: dict[str, float]
    spread: dict[str, tuple[float, float]]
    present: dict[str, Presence]
    conformal: dict[str, list[str] | None]


def presence(p: float, thresholds: Mapping[str, float]) -> Presence:
    """yes from `present` on, no under `absent`, otherwise cannot say."""
    return "yes" if p >= thresholds["present"] else "no" if p < thresholds["absent"] else "cannot say"


def interpret(members: NDArray[np.float64], info: Mapping[str, Any]) -> Result:
    """The result of one image from its members' calibrated probabilities (S, C) and the model's `info` (model.json)."""
    classes: list[str] = info["classes"]
    mean = members.mean(0)
    probabilities = dict(zip(classes, mean.tolist(), strict=True))
    return Result(
        predicted=classes[int(mean.argmax())],
        probabilities=probabilities,
        spread=dict(zip(classes, zip(members.min(0).tolist(), members.max(0).tolist(), strict=True), strict=True)),
        present={disease: presence(probabilities[disease], limits) for disease, limits in sorted(info["thresholds"].items())},
        conformal={coverage: conformal_set(mean, quantiles, classes) for coverage, quantiles in sorted(info["conformal"].items())},
    )


def predict(predictor: Predictor, images: NDArray[np.uint8]) -> list[Result]:
    """One result per image of (N, H, W, 3) uint8, at the predictor's own size."""
    members = predictor.members(images)
    return [interpret(members[:, i], predictor.info) for i in range(len(images))]


def refusal(pixels: NDArray[np.uint8]) -> str | None:
    """Why the model may not speak on a decoded image (H, W, 3), or None when it may."""
    if (pixels == pixels[:1, :1]).all():
        return "one colour only: there is nothing to see"
    return None
