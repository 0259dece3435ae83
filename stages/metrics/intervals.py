"""The bootstrap over seeds and lesions for the two scores of the verdict and for those that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stages.metrics.classification import Truth

Floats = NDArray[np.floating[Any]]
CHUNK = 200  # resamples at a time: their weights stay in the processor's cache


def interval(values: Floats) -> tuple[float, float]:
    """The 95% percentile interval of bootstrap `values` (B,)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def with_interval(value: float, values: Floats) -> dict[str, float]:
    """`value` with the percentile interval of its bootstrap `values` (B,), six digits."""
    low, high = interval(values)
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}


def lesion_weights(strata: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each lesion is drawn, (G, B): lesions are drawn with replacement within their stratum (class) (G,)."""
    weights = np.zeros((len(strata), resamples))
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        weights[mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=resamples).T
    return weights


@dataclass(frozen=True)
class Ranking:
    """One column of scores, sorted once: what `weighted_ap` needs for any weights."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    positives: NDArray[np.intp]
    positive_starts: NDArray[np.intp]


def rank(score: Floats, positive: NDArray[np.bool_]) -> Ranking:
    """Sort `score` (N,), highest first; images of equal score form a block, and blocks that hold no positive are merged downwards.

    `positive` (N,) has at least one True.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last image of each block
    block = np.repeat(np.arange(len(ends)), np.diff(np.append(-1, ends)))
    hit = np.flatnonzero(positive[order])
    filled, positive_starts = np.unique(block[hit], return_index=True)
    starts = np.append(0, ends[filled[:-1]] + 1)
    return Ranking(order[: ends[filled[-1]] + 1], starts, order[hit], positive_starts)


def weighted_ap(ranking: Ranking, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision (B,) under image weights (N, B): the sum of precision times gain in recall over blocks of equal score."""
    total = np.add.reduceat(weights[ranking.order], ranking.starts, axis=0).cumsum(0)
    gain = np.add.reduceat(weights[ranking.positives], ranking.positive_starts, axis=0)
    found = gain.cumsum(0)
    return np.asarray((gain * found / np.maximum(total, 1)).sum(0) / np.maximum(found[-1], 1))


def bootstrap(members: Mapping[str, Floats], truth: Truth, resamples: int, seed: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Bootstrap distributions per regime: {"rare_f1": (B, K), "rare_ap": (B, K)}, K rare classes, whose mean over K is the score, and
    {"accuracy", "balanced_accuracy", "macro_f1", "brier"}, each (B, 1). No calibration error: resampling alone raises it.

    `members` holds probabilities (S, N, C) per regime. A resample draws lesions (stratified by class) and seeds together; the
    same lesions and the same seed numbers for every regime, so that differences of two regimes are paired.
    """
    rng = np.random.default_rng(seed)
    lesions = lesion_weights(truth.lesion_labels, resamples, rng)
    draws = rng.random((resamples, max(len(m) for m in members.values())))
    every = np.arange(len(truth.classes))
    hot = (truth.labels[:, None] == every).astype(float)  # (N, C)
    here = hot.any(0)  # classes without a test image are left out of the means
    result = {}
    for regime, p in members.items():
        chosen = (p.argmax(2)[:, :, None] == every).astype(float)  # (S, N, C)
        errors = ((p - hot) ** 2).sum(2)  # (S, N)
        rankings = [[rank(one[:, c], hot[:, c] > 0) for c in truth.rare] for one in p]
        shapes = {"rare_f1": len(truth.rare), "rare_ap": len(truth.rare), "accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1, "brier": 1}
        found = {name: np.zeros((len(p), resamples, k)) for name, k in shapes.items()}
        for start in range(0, resamples, CHUNK):
            part = slice(start, start + CHUNK)
            weights = lesions[truth.lesions, part]
            positive = weights.T @ hot
            total = positive.sum(1)
            for s in range(len(p)):
                hits = weights.T @ (chosen[s] * hot)
                f1 = 2 * hits / np.maximum(weights.T @ chosen[s] + positive, 1)
                found["rare_f1"][s, part] = f1[:, truth.rare]
                found["macro_f1"][s, part, 0] = f1[:, here].mean(1)
                found["accuracy"][s, part, 0] = hits.sum(1) / total
                found["balanced_accuracy"][s, part, 0] = (hits / np.maximum(positive, 1))[:, here].mean(1)
                found["brier"][s, part, 0] = weights.T @ errors[s] / total
                for k, ranking in enumerate(rankings[s]):
                    found["rare_ap"][s, part, k] = weighted_ap(ranking, weights)
        # One seed fewer than there are, with replacement (Rao and Wu 1988): S of S would see their spread too small by sqrt((S - 1) / S).
        seeds = (draws[:, : max(1, len(p) - 1)] * len(p)).astype(int)  # (B, S - 1)
        rows = np.arange(resamples)[:, None]
        result[regime] = {name: values[seeds, rows].mean(1) for name, values in found.items()}
    return result


def intervals(metrics: Mapping[str, float], boots: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Each score of `bootstrap` for one regime, `metrics` its values, with its 95% interval."""
    return {score: with_interval(metrics[score], values.mean(1)) for score, values in boots.items()}
