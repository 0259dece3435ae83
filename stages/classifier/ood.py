"""May the model speak of this image at all? How far it lies from the training images, and its quality, held against split cal.

    distance to a class = squared Mahalanobis distance, per dimension, to that class's mean (Lee et al. 2018), the mean over the seeds,

in each of two views of the image:

    texture: means and deviations of the network's channels at stride 8 (`backbone.texture`),
    colour: mean, and logarithm of 2 + deviation, of the image's luminance and its two chromas (`colour`).

Texture alone lets chest X-rays pass as skin to a model of photographs (tests/test_ood.py): an early layer does not mind that all colour is gone.
In one vector the many textures would outvote the six colours. Each view has one Ledoit-Wolf covariance for all classes: a rare class has
fewer images than the features have dimensions. An image is of a class when no view of it lies beyond that class's limit, and refused when
it is of none. How far a class's images scatter is its own: a view's unit is the upper quartile of its cal images. How many units are too many is
one conformal quantile, 1 - LEVEL, of the cal images of all classes, each by the view in which it lies farthest: a class of 40 images does not know
its own tail, and one odd photograph of it would let temples and X-rays in. A class of which more lie beyond than chance explains has a quantile
of its own; of under 39 images that is the farthest of them, odd or not.
The level holds over all images. Of a class alone it is met as well as its images can tell: of one with 10 beside 500, 10% of new images lie beyond
its own limits (19: 7%), fewer are refused, for other classes take some in. Images of one lesion count as if they were of several.
Not used: the energy of the logits, which let chest X-rays, photographs and noise pass as phantoms.

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
VIEWS = ("texture", "colour")
LEVEL = 0.05
QUARTILE = 0.75
ENOUGH, FEW = 10, 5  # under ENOUGH cal images of a class every class's quartile measures it, if that is more; under FEW, in any case
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # ITU-R BT.601, as JPEG has it
LUMA = YCC[0]
#: What two prints of one picture may differ by, so that a data set without any colour does not refuse a JPEG's trace of it.
TEXTURE_NOISE, COLOUR_NOISE = 0.01, (1.0, 1.0, 1.0, 0.25, 0.25, 0.25)
#: What is said of an image that has less of a quality than any cal image.
POOR = {"brightness": "darker than every image of the calibration set", "sharpness": "more blurred than every image of the calibration set"}


def colour(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of (N, H, W, 3) images, (N, 6): the mean of Y, Cb and Cr in 0..255 units, and the logarithm of 2 + the standard deviation of each."""
    channels = images.astype(np.float64) @ YCC.T
    return np.concatenate([channels.mean((1, 2)), np.log(2 + channels.std((1, 2)))], axis=1)


def gaussian(features: Floats, labels: NDArray[np.int64], classes: int, noise: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means (classes, D), NaN for a class without a row, and the shared precision (D, D) of `features` (N, D) with `labels` (N,).

    `noise` is the standard deviation, in each feature's units, that measuring adds: the least that counts as a difference.
    """
    from sklearn.covariance import LedoitWolf  # here: the page reads this module before any model is loaded

    mean = np.full((classes, features.shape[1]), np.nan)
    for c in np.unique(labels):
        mean[c] = features[labels == c].mean(0)
    within = features - mean[labels]
    scale = np.hypot(within.std(0), noise)  # Ledoit and Wolf shrink to one variance for all, which wants one unit for all
    covariance = LedoitWolf(assume_centered=True).fit(within / scale).covariance_ + np.diag((noise / scale) ** 2)
    precision = np.linalg.inv(covariance) / np.outer(scale, scale)
    return mean.astype(np.float32), precision.astype(np.float32)


def mahalanobis(features: Floats, mean: Floats, precision: Floats) -> NDArray[np.float64]:
    """Squared Mahalanobis distance, per dimension, (N, C) of `features` (N, D) to each row of `mean` (C, D); infinite where that is NaN."""
    gaps = features.astype(np.float64)[:, None] - mean[None].astype(np.float64)
    found = np.einsum("ncd,de,nce->nc", gaps, precision.astype(np.float64), gaps, optimize=True) / features.shape[1]
    return np.where(np.isnan(found), np.inf, found)


def learn(texture: Floats, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> dict[str, NDArray[np.float32]]:
    """What known images look like, of training `images` (N, H, W, 3) with `texture` (N, D) and `labels` (N,): the arrays of `distances`."""
    features = {"texture": texture, "colour": colour(images)}
    noise = {"texture": np.full(texture.shape[1], TEXTURE_NOISE), "colour": np.array(COLOUR_NOISE)}
    found = {view: gaussian(features[view], labels, classes, noise[view]) for view in VIEWS}
    return {f"{view}_{name}": values for view, pair in found.items() for name, values in zip(("mean", "precision"), pair, strict=True)}


def distances(texture: Floats, images: NDArray[np.uint8], known: Mapping[str, Floats]) -> NDArray[np.float64]:
    """Distance (VIEWS, N, C) in each view of `images` (N, H, W, 3) with `texture` (N, D) to each class that `known` (`learn`) tells of."""
    features = {"texture": texture, "colour": colour(images)}
    return np.stack([mahalanobis(features[view], known[f"{view}_mean"], known[f"{view}_precision"]) for view in VIEWS])


def flat(known: Mapping[int, Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """The arrays of `learn` of each seed under the names they have in FILE."""
    return {f"{seed}.{name}": values for seed, arrays in known.items() for name, values in arrays.items()}


def nested(arrays: Mapping[str, NDArray[np.float32]]) -> dict[int, dict[str, NDArray[np.float32]]]:
    """What `flat` made flat."""
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for key, values in arrays.items():
        seed, name = key.split(".")
        found.setdefault(int(seed), {})[name] = values
    return found


def quality(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Of (N, H, W, 3) images, (N,) each: `brightness`, the mean luminance, and `sharpness`, the mean absolute Laplacian of it; both in 0..255 units."""
    from scipy.ndimage import laplace

    grey = images.astype(np.float64) @ LUMA
    return {"brightness": grey.mean((1, 2)), "sharpness": np.abs(laplace(grey, axes=(1, 2))).mean((1, 2))}


def quantile(values: Floats) -> float | None:
    """The conformal quantile (1 - LEVEL) of `values` (N,); None where they are too few."""
    rank = len(values) + 1 - math.floor((len(values) + 1) * LEVEL + 1e-9)
    return None if rank > len(values) else float(np.sort(values)[rank - 1])


def limit(own: Floats, common: float) -> float:
    """What a class with cal distances `own` (N,) accepts: `common`, the quantile of all classes, or its own (the farthest, if they are too few for one)
    where more of them lie beyond `common` than chance explains (binomial test at LEVEL).
    """
    from scipy.stats import binom

    beyond = int((own > common).sum())
    if not beyond or binom.sf(beyond - 1, len(own), LEVEL) >= LEVEL:
        return common
    mine = quantile(own)
    return float(own.max()) if mine is None else mine


def limits(own: Floats, labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """The limits (VIEWS, classes) of cal images with `labels` (N,) and distances `own` (VIEWS, N), each to its own class; infinite, so that nothing is
    refused for its distance, where all of them are too few (under 19; under 39 the farthest of all sets them).
    """
    if quantile(own[0]) is None:
        return np.full((len(VIEWS), classes), np.inf)
    unit = np.repeat(np.maximum(np.quantile(own, QUARTILE, axis=1), np.finfo(float).tiny)[:, None], classes, axis=1)  # of every class
    for c, n in zip(*np.unique(labels, return_counts=True), strict=True):
        of_class = np.quantile(own[:, labels == c], QUARTILE, axis=1)
        if n >= FEW:
            unit[:, c] = of_class if n >= ENOUGH and of_class.all() else np.maximum(unit[:, c], of_class)
    farthest = (own / unit[:, labels]).max(0)
    common = quantile(farthest)
    assert common is not None
    times = np.array([limit(farthest[labels == c], common) for c in range(classes)])
    return unit * times * (1 + 1e-5)  # a little on the safe side of what float32 can tell


def named(limits: Floats, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """`limits` (VIEWS, C) by class and view, for JSON: null where there is none."""
    return {c: {v: float(f"{x:.6g}") if np.isfinite(x) else None for v, x in zip(VIEWS, limits[:, i], strict=True)} for i, c in enumerate(classes)}


def unnamed(record: Mapping[str, Mapping[str, float | None]], classes: Sequence[str]) -> NDArray[np.float64]:
    """The limits (VIEWS, C) that `named` put down, infinite where there is none."""
    found = np.array([[record[c][view] for c in classes] for view in VIEWS], np.float64)  # null becomes NaN
    return np.asarray(np.nan_to_num(found, nan=np.inf))


def excess(distance: Floats, limits: Floats) -> NDArray[np.float64]:
    """How many times as far as its nearest class accepts (N,) each image of `distance` (VIEWS, N, C) lies, given `limits` (VIEWS, C); over 1: refused."""
    ratio = np.divide(distance, limits[:, None], out=np.zeros_like(distance), where=np.isfinite(limits)[:, None])
    return np.asarray(np.sqrt(ratio.max(0).min(-1)))


def fit(distance: Floats, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """The record for model.json from the cal images (N, H, W, 3), their distances (VIEWS, N, C) and labels (N,).

    Limits by class and view, null where nothing is refused for its distance; per class how many were refused, and n.
    """
    own = distance[:, np.arange(len(labels)), labels]
    known = np.isfinite(own).all(0)  # a class that train lacks has no distance of its own
    found = limits(own[:, known], labels[known], len(classes))
    beyond = excess(distance, found) > 1
    return {
        "level": LEVEL,
        "limits": named(found, classes),
        "quality": {name: float(f"{values.min():.6g}") for name, values in quality(images).items()},
        "cal": {c: {"refused": int(beyond[labels == i].sum()), "n": int((labels == i).sum())} for i, c in enumerate(classes)},
    }


def reasons(distance: Floats, images: NDArray[np.uint8], record: Mapping[str, Any], classes: Sequence[str]) -> list[str | None]:
    """Why the model may not speak on each of (N, H, W, 3) `images` with `distance` (VIEWS, N, C), in words; None where it may. `record`: of `fit`."""
    times, seen = excess(distance, unnamed(record["limits"], classes)), quality(images)
    told: list[str | None] = []
    for i in range(len(images)):
        why = [words for name, words in POOR.items() if seen[name][i] < record["quality"][name] * (1 - 1e-5)]
        if times[i] > 1:
            why.insert(0, f"unlike the images that the model knows ({times[i]:.2f} times as far from them as it accepts)")
        told.append("; ".join(why) or None)
    return told
