"""The shortcut audit: can the label be read from what is not the disease?

Each probe (`stages.quality.probes`) is scored out of fold by group; the largest AUC over all probes is held against its distribution when
the groups' labels are permuted, so that many probes do not find a shortcut by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import PolynomialFeatures

from stages.quality.confounding import MOST_HELD
from stages.quality.probes import Probe

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FOLDS = 5
LEAST_GROUPS = FOLDS  # on either side; with so few the interval is wide, and says so
RIDGE = 0.01  # of the number of training images
WIDE = 8  # columns from which products of two are left out
P_VALUE, LEAST_AUC = 0.01, 0.60  # it fires under the one and with a lower bound over the other
DIGITS = 4


@dataclass(frozen=True)
class Finding:
    """What the audit of one disease found. `probe` is the worst one, `auc` its out-of-fold AUC with a 95% interval, `p` that of the maximum
    over all probes; `aucs` holds every probe's. All None where a side has under 5 groups. `scores` (N,), in the order of the images given and
    NaN without a value: by the worst probe, the share (0..1) of the comparison's images of the same fold that are less like the disease; over
    the disease its mean is `auc`."""

    probe: str | None
    auc: float | None
    low: float | None
    high: float | None
    p: float | None
    aucs: dict[str, float]
    scores: Floats | None

    @property
    def fires(self) -> bool:
        """Whether a model can score well without seeing the disease: p < 0.01 and a lower bound over 0.60."""
        return self.p is not None and self.low is not None and self.p < P_VALUE and self.low > LEAST_AUC


def design(values: Floats) -> Floats:
    """What the linear model sees of a probe's `values` (N, D): ranks in -1..1, their squares and products, each scaled to mean 0, variance 1.

    Ranks, because bytes and pixels have long tails; a missing value becomes the middle. Neither looks at labels.
    """
    ranks = np.nan_to_num(2 * (rankdata(values, axis=0, nan_policy="omit") - 0.5) / np.maximum((~np.isnan(values)).sum(0), 1) - 1)
    expanded = np.hstack([ranks, ranks**2]) if values.shape[1] > WIDE else PolynomialFeatures(2, include_bias=False).fit_transform(ranks)
    centred = expanded - expanded.mean(0)
    spread = centred.std(0)
    return np.asarray(centred[:, spread > 1e-9] / spread[spread > 1e-9])


def group_folds(group_positive: Bools, seed: int) -> NDArray[np.int64]:
    """The fold of each group, (G,), stratified by its label.

    Over groups, not over images as StratifiedGroupKFold has it: then every permutation of labels within the folds would have led to the same
    folds with the same probability, and the test is exact.
    """
    folds = np.empty(len(group_positive), np.int64)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (_, held) in enumerate(splitter.split(group_positive, group_positive)):
        folds[held] = fold
    return folds


def permuted(group_positive: Bools, folds: NDArray[np.int64], count: int, rng: np.random.Generator) -> Bools:
    """The groups' labels and `count` permutations of them within folds, (G, 1 + count); the first column is as observed."""
    labels = np.repeat(group_positive[:, None], 1 + count, axis=1)
    for fold in range(FOLDS):
        mine = np.flatnonzero(folds == fold)
        labels[mine, 1:] = rng.permuted(labels[mine, 1:], axis=0)
    return labels


def out_of_fold_ranks(x: Floats, labels: Floats, folds: NDArray[np.int64]) -> Floats:
    """For each column of `labels` (N, B), 0 or 1: the rank, within its fold, of each image's score by a ridge regression on the other folds.

    `x` (N, D) from `design`. A linear regression on 0 and 1 has the direction of Fisher's discriminant, and its coefficients for all columns
    come from one factorisation. Ties get their mean rank.
    """
    ranks = np.empty_like(labels)
    for fold in range(FOLDS):
        held = folds == fold
        train, y = x[~held], labels[~held]
        centre = train.mean(0)
        train = train - centre
        gram = train.T @ train + RIDGE * len(train) * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, train.T @ (y - y.mean(0)))
        # Rounded, so that scores that are equal but for the last bit stay ties on any machine.
        ranks[held] = rankdata(np.round((x[held] - centre) @ weights, 9), axis=0)
    return ranks


def stratified_auc(ranks: Floats, labels: Floats, folds: NDArray[np.int64]) -> Floats:
    """The share of pairs (positive, negative) of one fold that are in order, (B,): ranks and labels (N, B).

    Pairs within a fold only: models of two folds have two scales, and pooling them pulls the AUC of a useless probe under 0.5.
    """
    ordered, pairs = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for fold in range(FOLDS):
        r, y = ranks[folds == fold], labels[folds == fold]
        m = y.sum(0)
        ordered += (r * y).sum(0) - m * (m + 1) / 2
        pairs += m * (len(y) - m)
    return np.where(pairs > 0, ordered / np.maximum(pairs, 1), 0.5)


def lower_share(ranks: Floats, positive: Bools, folds: NDArray[np.int64]) -> Floats:
    """For each image, (N,): the share of the negatives of its fold with a lower rank, 0..1; ties, and a negative itself, count half."""
    share = np.empty(len(ranks))
    for fold in range(FOLDS):
        held = np.flatnonzero(folds == fold)
        r, y = ranks[held], positive[held]
        share[held[y]] = (r[y] - rankdata(r[y])) / max((~y).sum(), 1)
        share[held[~y]] = (rankdata(r[~y]) - 0.5) / max((~y).sum(), 1)
    return share


def clustered_interval(ranks: Floats, positive: Bools, groups: NDArray[np.int64], folds: NDArray[np.int64]) -> tuple[float, float]:
    """The 95% interval of `stratified_auc` for one column (N,), by the structural components of DeLong et al. (Biometrics 1988, 44:837)
    summed over groups (Obuchowski, Biometrics 1997, 53:567), with Student's t on the smaller number of groups less one.

    Where no pair is out of order that variance is 0; the rule of three (Hanley and Lippman-Hand 1983) takes its place.
    It takes scores as given: neither the fit nor the choice of the largest of several AUCs widens it (the permutation test answers for that).
    """
    pairs = float(sum(positive[folds == f].sum() * (~positive[folds == f]).sum() for f in range(FOLDS)))
    auc = float(stratified_auc(ranks[:, None], positive[:, None].astype(float), folds)[0])
    influence = np.zeros(len(ranks))
    for fold in range(FOLDS):
        held = np.flatnonzero(folds == fold)
        r, y = ranks[held], positive[held]
        for side in (True, False):
            own, others = held[y == side], int((y != side).sum())
            beaten = r[y == side] - rankdata(r[y == side])  # of the other side, ties half
            ordered = beaten if side else others - beaten
            influence[own] = (ordered - auc * others) / pairs
    variance, counts = 0.0, []
    for rows in (positive, ~positive):
        sums = np.bincount(groups[rows], influence[rows])[np.unique(groups[rows])]
        counts.append(len(sums))
        variance += len(sums) / (len(sums) - 1) * float((sums**2).sum())
    reach = float(t.ppf(0.975, min(counts) - 1)) * variance**0.5
    if auc in (0.0, 1.0):
        reach = 3 / min(counts)
    return max(0.0, auc - reach), min(1.0, auc + reach)


def enough(positive: Bools, groups: NDArray[np.int64], known: Bools) -> bool:
    """Whether the images `known` (N,) hold enough groups on both sides."""
    return all(len(np.unique(groups[known & side])) >= LEAST_GROUPS for side in (positive, ~positive))


def with_all_together(probes: Sequence[Probe]) -> list[Probe]:
    """`probes`, and last all that have a value for every image as one."""
    whole = [probe.values for probe in probes if probe.known.all()]
    return [*probes, *([Probe("everything together", np.hstack(whole))] if len(whole) > 1 else [])]


def audit(probes: Sequence[Probe], positive: Bools, groups: NDArray[np.object_], permutations: int, seed: int) -> Finding:
    """Hold the probes' largest AUC against `permutations` permutations of the groups' labels: p = (1 + as large or larger) / (1 + permutations).

    `positive` (N,) is the disease, `groups` (N,) the patients or lesions, each on one side only; the probes' values have N rows. A probe is
    scored on the images for which it has values: that one is missing (a healthy picture has no lesion's box) is no shortcut in the picture.
    """
    _, first, codes = np.unique(groups.astype(str), return_index=True, return_inverse=True)
    group_positive = positive[first]
    if (group_positive[codes] != positive).any():
        raise ValueError("a group lies on both sides")
    probes = [probe for probe in probes if enough(positive, codes, probe.known)]
    if not enough(positive, codes, np.ones(len(positive), bool)) or not probes:
        return Finding(None, None, None, None, None, {}, None)
    group_fold = group_folds(group_positive, seed)
    labels = permuted(group_positive, group_fold, permutations, np.random.default_rng(seed))[codes]
    folds = group_fold[codes]
    aucs, worst, ranks = np.empty((len(probes), labels.shape[1])), -1, np.empty(0)
    block = max(1, MOST_HELD // len(labels))
    for k, probe in enumerate(probes):
        x, fold = design(probe.values[probe.known]), folds[probe.known]
        for start in range(0, labels.shape[1], block):
            some = labels[probe.known, start : start + block].astype(float)
            found = out_of_fold_ranks(x, some, fold)
            aucs[k, start : start + block] = stratified_auc(found, some, fold)
            if start == 0 and (worst < 0 or aucs[k, 0] > aucs[worst, 0]):
                worst, ranks = k, found[:, 0].copy()
    highest = aucs.max(0)
    p = (1 + int((highest[1:] >= highest[0]).sum())) / (1 + permutations)
    known = probes[worst].known
    low, high = clustered_interval(ranks, positive[known], codes[known], folds[known])
    scores = np.full(len(positive), np.nan)
    scores[known] = lower_share(ranks, positive[known], folds[known])
    return Finding(
        probe=probes[worst].name,
        auc=round(float(aucs[worst, 0]), DIGITS),
        low=round(low, DIGITS),
        high=round(high, DIGITS),
        p=round(p, DIGITS),
        aucs={probe.name: round(float(auc), DIGITS) for probe, auc in zip(probes, aucs[:, 0], strict=True)},
        scores=scores,
    )
