"""May the model speak of this image at all? How far it lies from the training images, and its quality, held against split cal.

    distance to a class = mean over the seeds of the squared Mahalanobis distance to that class's mean (Lee et al. 2018)

of channel means and deviations at stride 8 (`backbone.texture`), with one Ledoit-Wolf covariance for all classes: a rare class
has fewer images than the features have dimensions. An image is refused when it lies beyond the limit of every class. A limit is
the conformal quantile of the distances of that class's own cal images, so that of each class, rare ones too, at most LEVEL are
refused. Not used: the energy of the logits, which let chest X-rays, photographs and noise pass as phantoms.

Why not a library: pytorch-ood's Mahalanobis inverts the plain covariance, and gives the least distance alone, which allows no limit a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
FILE = "ood.safetensors"
LEVEL = 0.05
LEAST = math.ceil(1 / LEVEL) - 1  # images without which no quantile at LEVEL exists
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
#: What is said of an image that has less of a quality than any cal image.
POOR = {"brightness": "darker than every image of the calibration set", "sharpness": "more blurred than every image of the calibration set"}


def gaussian(features: Floats, labels: NDArray[np.int64], classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means (classes, D), NaN for a class without a row, and the shared precision (D, D) of `features` (N, D) with `labels` (N,)."""
    from sklearn.covariance import LedoitWolf  # here: the page reads this module before any model is loaded

    mean = np.full((classes, features.shape[1]), np.nan)
    for c in np.unique(labels):
        mean[c] = features[labels == c].mean(0)
    precision = LedoitWolf(assume_centered=True).fit(features - mean[labels]).precision_
    return mean.astype(np.float32), precision.astype(np.float32)


def distances(features: Floats, mean: Floats, precision: Floats) -> NDArray[np.float64]:
    """Squared Mahalanobis distance (N, C) of `features` (N, D) to each row of `mean` (C, D); infinite where that is NaN."""
    gaps = features.astype(np.float64)[:, None] - mean[None].astype(np.float64)
    found = np.einsum("ncd,de,nce->nc", gaps, precision.astype(np.float64), gaps, optimize=True)
    return np.where(np.isnan(found), np.inf, found)


def quality(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Of (N, H, W, 3) images, (N,) each: `brightness`, the mean luminance, and `sharpness`, the mean absolute Laplacian of it; both in 0..255 units."""
    from scipy.ndimage import laplace

    grey = images.astype(np.float64) @ LUMA
    return {"brightness": grey.mean((1, 2)), "sharpness": np.abs(laplace(grey, axes=(1, 2))).mean((1, 2))}


def limit(own: Floats, every: Floats) -> float | None:
    """The conformal quantile (1 - LEVEL) of a class's `own` distances; when they are too few, that of `every` class's, and no less than any of its own.

    None where these are too few as well: then nothing is refused for its distance.
    """

    def quantile(values: Floats) -> float | None:
        rank = len(values) + 1 - math.floor((len(values) + 1) * LEVEL + 1e-9)
        return None if rank > len(values) else float(np.sort(values)[rank - 1])

    found = quantile(own)
    if found is None and (found := quantile(every)) is not None:
        found = max([found, *own.tolist()])
    return None if found is None else float(f"{found * (1 + 1e-5):.6g}")  # a little on the safe side of what float32 can tell


def refused(distance: Floats, limits: Sequence[float | None]) -> NDArray[np.bool_]:
    """Whether each row of `distance` (N, C) lies beyond every class's limit; never where one class has none."""
    return np.asarray((distance > np.array([np.inf if v is None else v for v in limits])).all(-1))


def fit(distance: Floats, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """The record for model.json from the cal images (N, H, W, 3), their distances (N, C) and labels (N,): limits, and refused and n per class."""
    own = distance[np.arange(len(labels)), labels]
    known = np.isfinite(own)  # a class that train lacks has no distance of its own
    limits = {c: limit(own[known & (labels == i)], own[known]) for i, c in enumerate(classes)}
    beyond = refused(distance, list(limits.values()))
    return {
        "level": LEVEL,
        "limits": limits,
        "quality": {name: float(f"{values.min():.6g}") for name, values in quality(images).items()},
        "cal": {c: {"refused": int(beyond[labels == i].sum()), "n": int((labels == i).sum())} for i, c in enumerate(classes)},
    }


def reasons(distance: Floats, images: NDArray[np.uint8], record: Mapping[str, Any], classes: Sequence[str]) -> list[str | None]:
    """Why the model may not speak on each of (N, H, W, 3) `images` with `distance` (N, C), in words; None where it may. `record` is that of `fit`."""
    limits = [record["limits"][c] for c in classes]
    beyond, found = refused(distance, limits), quality(images)
    told: list[str | None] = []
    for i in range(len(images)):
        why = [words for name, words in POOR.items() if found[name][i] < record["quality"][name] * (1 - 1e-5)]
        if beyond[i]:
            times = math.sqrt(min(d / v for d, v in zip(distance[i], limits, strict=True) if v))
            why.insert(0, f"unlike the images that the model knows ({times:.2f} times as far from them as it accepts)")
        told.append("; ".join(why) or None)
    return told
