"""Whether generated images are copies of training images, and whether a LoRA knows which images it was trained on.

Every number stands against its null: real images that nobody trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import binomtest, norm

from stages.imaging.dihedral import dihedral
from stages.metrics.intervals import interval, lesion_weights

Floats = NDArray[np.floating[Any]]
QUANTILE = 0.01  # of the null's distances to the nearest training image: what lies nearer than that is called a copy
LEAST = 300  # candidates and null images under which a copy rate is underpowered
POWER = 0.8
LEAST_LESIONS = 5  # on either side, under which a bootstrap of lesions says nothing about the membership AUC
MAX_AUC = 0.60  # the lower bound of the membership AUC over which the audit stops
NO_RESERVE = "no reserve images"
UNKNOWN: dict[str, Any] = {"value": None, "low": None, "high": None, "note": NO_RESERVE}
RESAMPLES = 2000


def nearest(images: Floats, training: Floats) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distance (N,) of each of `images` (N, D) to the nearest of the training images, and which one it is (N,).

    `training` (V, M, D) holds the features of M training images in V turns and mirrorings: a turned copy is a copy.
    """
    distances = cdist(images, training.reshape(-1, training.shape[2]))
    first = distances.argmin(1)
    return distances[np.arange(len(images)), first], first % training.shape[1]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The Wilson 95% interval of `hits` of `n`."""
    found = binomtest(hits, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def newcombe(hits: int, n: int, others: int, m: int) -> tuple[float, float, float]:
    """hits / n minus others / m with its 95% interval (Newcombe 1998, method 10: from the two Wilson intervals)."""
    a, b = hits / n, others / m
    (la, ha), (lb, hb) = wilson(hits, n), wilson(others, m)
    return a - b, a - b - float(np.hypot(a - la, hb - b)), a - b + float(np.hypot(ha - a, b - lb))


def copy_excess(candidates: Floats, null: Floats) -> dict[str, Any]:
    """How much more often candidates are copies than real images that nobody trained on, with its 95% interval.

    `candidates` (N,) and `null` (M,) are distances to the nearest training image. A copy lies nearer than the `QUANTILE` of the null.
    """
    limit = float(np.quantile(null, QUANTILE))
    copies, chance = int((candidates <= limit).sum()), int((null <= limit).sum())
    value, low, high = newcombe(copies, len(candidates), chance, len(null))
    return {
        "value": value, "low": low, "high": high, "n": len(candidates), "n_null": len(null), "copies": copies, "copies_null": chance,
        "limit": limit, "underpowered": min(len(candidates), len(null)) < LEAST,
    }  # fmt: skip


def authentic(images: Floats, training: Floats) -> NDArray[np.bool_]:
    """Which of `images` (N, D) lie farther from their nearest training image than that one from its own nearest neighbour: (N,).

    Their share is AuthPct (Alaa et al. 2022, arXiv:2102.08921). `training` as in `nearest`, two images or more.
    """
    distance, which = nearest(images, training)
    own = training[0]
    between = cdist(own, training.reshape(-1, own.shape[1])).reshape(len(own), len(training), len(own)).min(1)
    np.fill_diagonal(between, np.inf)  # an image's own turns are no neighbours
    return np.asarray(distance > between.min(1)[which])


def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """The share of True with its Wilson 95% interval and n (one or more)."""
    low, high = wilson(int(hits.sum()), len(hits))
    return {"value": float(hits.mean()), "low": low, "high": high, "n": len(hits)}


@dataclass(frozen=True)
class Search:
    """What a search for copies found: copy rate and AuthPct (for audit.json), distance (N,) and number (N,) of each image's nearest training image,
    and the null's distances (M,)."""

    found: dict[str, Any]
    distance: NDArray[np.float64]
    which: NDArray[np.intp]
    null: NDArray[np.float64]


def search(encoder: Callable[[NDArray[np.uint8]], Floats], images: NDArray[np.uint8], training: NDArray[np.uint8], null: NDArray[np.uint8]) -> Search:
    """Look for copies of `training` images (M, S, S, 3), in any turn or mirroring, among `images` (N, S, S, 3); `null` (K, S, S, 3) may be empty."""
    turned = dihedral(training)
    known = encoder(np.ascontiguousarray(turned.reshape(-1, *training.shape[1:]))).reshape(len(turned), len(training), -1)
    features, of_null = encoder(images), encoder(null) if len(null) else None
    distance, which = nearest(features, known)
    chance = np.empty(0) if of_null is None else nearest(of_null, known)[0]
    excess = UNKNOWN | {"n": len(images)} if of_null is None else copy_excess(distance, chance)
    if len(training) < 2:
        own = UNKNOWN | {"n": len(images), "note": "one training image"}
    else:
        own = share(authentic(features, known)) | {"null": None if of_null is None else float(authentic(of_null, known).mean())}
    return Search({"copy_excess": excess, "auth_pct": own}, distance, which, chance)


def _numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def membership_auc(members: Floats, others: Floats, member_groups: Sequence[str], other_groups: Sequence[str], seed: int) -> dict[str, Any]:
    """The probability that a training image gained more by the LoRA than a real image it never saw; 0.5 is no knowledge of its members.

    `members` (N,) and `others` (M,) are gains: the base's denoising loss minus the LoRA's. The 95% interval is a bootstrap of the lesions
    in `member_groups` (N,) and `other_groups` (M,). `detectable` is the least AUC that a test at 5% finds with a power of 80% from so many
    lesions (the variance of Mann and Whitney's U without effect; at most 1).
    """
    wins = (members[:, None] > others[None]) + 0.5 * (members[:, None] == others[None])
    rng = np.random.default_rng(seed)
    numbers = [_numbered(g) for g in (member_groups, other_groups)]
    a, b = (lesion_weights(np.zeros(n.max() + 1, np.int64), RESAMPLES, rng)[n] for n in numbers)  # (N, B), (M, B)
    low, high = interval(((a.T @ wins) * b.T).sum(1) / (a.sum(0) * b.sum(0)))
    n, m = (int(g.max()) + 1 for g in numbers)
    chance = np.sqrt((n + m + 1) / (12 * n * m))
    return {
        "value": float(wins.mean()), "low": low, "high": high, "n": len(members), "n_null": len(others), "lesions": n, "lesions_null": m,
        "detectable": min(1.0, float(0.5 + (norm.ppf(0.975) + norm.ppf(POWER)) * chance)),
        "underpowered": min(n, m) < LEAST_LESIONS,
    }  # fmt: skip
