"""How well a scorer that never saw the generator names its images, beside real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.metrics.intervals import interval
from stages.metrics.memorisation import share

RESAMPLES = 2000
SCORES = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (C, C): rows the class asked for, columns the class that was named."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def macro(counts: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """The `SCORES` (..., 4) of confusion matrices (..., C, C), every class weighing the same, however many images it has.

    A class that is never named has precision 0 (as scikit-learn's zero_division=0).
    """
    share = counts / counts.sum(-1, keepdims=True)
    hits = np.diagonal(share, axis1=-2, axis2=-1)
    named = share.sum(-2)
    precision = np.divide(hits, named, out=np.zeros_like(hits), where=named > 0)
    f1 = 2 * hits / (1 + named)  # precision and recall's harmonic mean: each row sums to 1
    return np.stack([hits.mean(-1), precision.mean(-1), hits.mean(-1), f1.mean(-1)], axis=-1)


def accuracy(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[str], seed: int) -> dict[str, Any]:
    """Each of `SCORES` with its 95% interval (bootstrap of images within their class), recall per class with Wilson's, n and counts.

    `labels` (N,) is what was asked for, `predicted` (N,) what the scorer named; every class has an image.
    """
    counts = confusion(labels, predicted, len(classes))
    n = counts.sum(1)
    rng = np.random.default_rng(seed)
    resampled = np.stack([rng.multinomial(k, row / k, size=RESAMPLES) for k, row in zip(n, counts, strict=True)], axis=1)  # (B, C, C)
    values, draws = macro(counts), macro(resampled)
    found: dict[str, Any] = {"n": int(n.sum()), "confusion": counts.tolist(), "per_class": {}}
    for k, name in enumerate(SCORES):
        low, high = interval(draws[:, k])
        found[name] = {"value": float(values[k]), "low": low, "high": high}
    for k, name in enumerate(classes):
        found["per_class"][name] = share(predicted[labels == k] == k)
    return found


def place(value: float, real: dict[str, float]) -> str:
    """Where `value` lies beside the interval of the real images: below, inside or above."""
    return "below" if value < real["low"] else "above" if value > real["high"] else "inside"
