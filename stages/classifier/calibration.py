"""Calibration on split cal: temperatures, class bias, thresholds per disease and conformal sets. One row per lesion, so that rows are independent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
GRID = 1e-6  # thresholds lie on this grid, at least a tenth of a step on the safe side, so that float32 and JSON agree on them
TEMPERATURES = (0.05, 20.0)
RIDGE = 1e-4


def fit_temperature(logits: Floats, labels: NDArray[np.integer[Any]]) -> float:
    """The temperature in 0.05..20 with the least negative log-likelihood (Guo et al. 2017).

    `logits` (N, C), `labels` (N,) class indices, N > 0. Divide logits by it before the softmax.
    """
    from scipy.optimize import minimize_scalar  # here: the page reads this module before it has to calibrate anything
    from scipy.special import log_softmax

    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        return float(-log_softmax(scaled, axis=-1)[rows, labels].mean())

    low, high = (math.log(t) for t in TEMPERATURES)
    return round(math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x), 6)


def shift(p: Floats, temperature: float, bias: Floats) -> NDArray[np.float64]:
    """Probabilities (..., C) `p`, their logarithms divided by `temperature`, then `bias` (C,) added."""
    from scipy.special import softmax

    return np.asarray(softmax(np.log(np.maximum(p, 1e-12)) / temperature + bias, axis=-1))


def fit_shift(p: Floats, labels: NDArray[np.integer[Any]]) -> tuple[float, NDArray[np.float64]]:
    """The temperature and class bias (C,) with the least negative log-likelihood of `shift(p, ...)`; `p` (N, C), `labels` (N,), N > 0.

    Bias-corrected temperature scaling (Alexandari et al. 2020) of an ensemble: the mean of calibrated members is itself too
    timid (Rahaman and Thiery 2021), and a disease that was rare in train stays too improbable wherever it is commoner.
    A class without a row says nothing of its bias, which is that of the others in the mean: its probability stays what the models say.
    """
    from scipy.optimize import minimize

    present, labels = np.unique(labels, return_inverse=True)
    bias, p = np.zeros(p.shape[1]), p[:, present]
    classes, rows = len(present), np.arange(len(labels))
    share = np.bincount(labels) / len(labels)
    log_p = np.log(np.maximum(p, 1e-12))

    def loss(x: Floats) -> tuple[float, NDArray[np.float64]]:
        moved = shift(p, 1 / x[0], x[1:])
        value = -np.log(np.maximum(moved[rows, labels], 1e-300)).mean() + RIDGE * (x[1:] ** 2).sum() / 2
        sharper = ((moved * log_p).sum(1) - log_p[rows, labels]).mean()
        return float(value), np.concatenate([[sharper], moved.mean(0) - share + RIDGE * x[1:]])

    low, high = TEMPERATURES
    start, bounds = np.concatenate([[1.0], np.zeros(classes)]), [(1 / high, 1 / low), *[(None, None)] * classes]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    bias[:], bias[present] = found[1:].mean(), found[1:]
    return round(float(1 / found[0]), 6), np.round(bias, 6)


def calibrated(p: Floats, info: Mapping[str, Any]) -> NDArray[np.float64]:
    """Tempered probabilities (..., C), of members or their mean, as they fit the mix of classes in cal: what a person is told."""
    return shift(p, info["ensemble_temperature"], np.array([info["bias"][c] for c in info["classes"]]))


def disease_thresholds(p: Floats, positive: NDArray[np.bool_]) -> dict[str, float | int]:
    """Where a disease is called present (p >= present) or absent (p < absent); between the two: cannot say.

    `p` (N,) probabilities of the disease, `positive` (N,). `absent` is the largest threshold that keeps a sensitivity of 95% here,
    `present` the smallest that keeps a specificity of 95%; if they cross, both are their midpoint, which keeps both.
    Without positives nothing is called absent (0), without negatives nothing present (just over 1). The counts tell
    how much a threshold is worth: under 30 positives it supports no sensitivity claim.
    """
    positives = np.sort(np.asarray(p, np.float64)[positive])
    negatives = np.sort(np.asarray(p, np.float64)[~positive])[::-1]
    absent = math.floor(positives[len(positives) // 20] / GRID - 0.1) * GRID if len(positives) else 0.0
    present = math.floor(negatives[len(negatives) // 20] / GRID + 1.1) * GRID if len(negatives) else 1.0 + GRID
    if absent > present:
        absent = present = (absent + present) / 2
    return {"present": round(present, 6), "absent": round(absent, 6), "n_positive": len(positives), "n_negative": len(negatives)}


def conformal_quantiles(p: Floats, labels: NDArray[np.integer[Any]], classes: Sequence[str], alpha: float) -> dict[str, float | None]:
    """Per class, the quantile of the score 1 - p_true that covers it with probability 1 - alpha (class-conditional split conformal).

    `p` (N, C), `labels` (N,). The ceil((n + 1)(1 - alpha))-th smallest of n scores (Vovk 2012); None where n is too small
    for it to exist: under 9 at alpha 0.1, under 19 at alpha 0.05.
    """
    result: dict[str, float | None] = {}
    for index, name in enumerate(classes):
        scores = np.sort(1.0 - np.asarray(p, np.float64)[labels == index, index])
        rank = len(scores) + 1 - math.floor((len(scores) + 1) * alpha + 1e-9)
        result[name] = None if rank > len(scores) else round(math.ceil(scores[rank - 1] / GRID) * GRID, 6)
    return result


def conformal_set(p: Floats, quantiles: dict[str, float | None], classes: Sequence[str]) -> list[str] | None:
    """The classes whose score 1 - p is within their quantile, for one image's probabilities `p` (C,).

    None when some class had too few lesions for a quantile: a set that leaves a class out unasked promises nothing.
    """
    limits = [quantiles[name] for name in classes]
    if any(limit is None for limit in limits):
        return None
    return [name for name, chance, limit in zip(classes, p, limits, strict=True) if limit is not None and 1.0 - float(chance) <= limit + 1e-9]
