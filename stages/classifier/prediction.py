"""From an image to what may be said of it; shared by `stages.predict` and the page, so that both say the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError

from stages.classifier.calibration import calibrated, conformal_set
from stages.imaging.decode import Unusable
from stages.runtime.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import: the page is painted before a model is loaded
    from stages.classifier.predictor import Predictor

Presence = Literal["yes", "no", "cannot say"]


@dataclass(frozen=True)
class Result:
    """What the ensemble says of one case, which is an image or several views of one lesion. Probabilities are calibrated, 0..1, by class key.

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
    """The result of one case from its members' tempered probabilities (S, C), or (S, V, C) of V views, and the model's `info` (model.json).

    Views are averaged as the images of a lesion are where thresholds and conformal quantiles come from (`stages.train.calibrate`).
    """
    classes: list[str] = info["classes"]
    views = members.reshape(len(members), -1, len(classes))
    raw = views.mean((0, 1))
    mean, each = calibrated(views.mean(0), info).mean(0), calibrated(views, info).mean(1)
    probabilities = dict(zip(classes, mean.tolist(), strict=True))
    return Result(
        predicted=classes[int(mean.argmax())],
        probabilities=probabilities,
        spread=dict(zip(classes, zip(each.min(0).tolist(), each.max(0).tolist(), strict=True), strict=True)),
        present={disease: presence(probabilities[disease], limits) for disease, limits in sorted(info["thresholds"].items())},
        conformal={coverage: conformal_set(raw, quantiles, classes) for coverage, quantiles in sorted(info["conformal"].items())},
    )


def predict(predictor: Predictor, images: NDArray[np.uint8]) -> list[Result]:
    """One result per image of (N, H, W, 3) uint8, at the predictor's own size, whether or not the model may speak on it."""
    members = predictor.members(images)
    return [interpret(members[:, i], predictor.info) for i in range(len(images))]


def answers(predictor: Predictor, images: NDArray[np.uint8]) -> list[Result | Unusable]:
    """One result per image of (N, H, W, 3) uint8, or why the model may not speak on it."""
    told = zip(predictor.refusals(images), predict(predictor, images), strict=True)
    return [Unusable(why) if why else result for why, result in told]


def answer_case(predictor: Predictor, views: NDArray[np.uint8]) -> tuple[list[str | None], Result | None]:
    """Of the views (V, H, W, 3) of one lesion: why each is left out (None: it is not), and the result on the others; None when none is left."""
    reasons = predictor.refusals(views)
    used = np.array([why is None for why in reasons])
    return reasons, interpret(predictor.members(views[used]), predictor.info) if used.any() else None


def open_model(folder: str | Path, split: pd.DataFrame | None = None) -> Predictor:
    """`predictor.load` for a folder that anyone may name: tried on a grey image, so that a broken model stops here and in one line.

    Raises `UserError` when the folder holds no usable model, `LawError` when the model was changed or, given `split`, saw a sealed group.
    """
    from stages.classifier.predictor import load

    try:
        predictor = load(folder, split)
        grey = np.full((1, predictor.size, predictor.size, 3), 128, np.uint8)
        result = predict(predictor, grey)[0]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no usable model ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "restore it with `dvc checkout` or rebuild it with `dvc repro`"
        ) from None
    if not np.isfinite(list(result.probabilities.values())).all():
        raise UserError(f"{folder} holds a model that gives no finite probabilities; rebuild it with `dvc repro`")
    return predictor
