"""What a classifier scores on the sealed test images: one seed, the mean over seeds, the ensemble, lesions, subgroups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from stages.dataset.groups import majority

Floats = NDArray[np.floating[Any]]
TOO_FEW = "too few"
LEAST_LESIONS = 30  # under this many lesions no sensitivity is claimed and no subgroup is scored
BINS = 15
DIGITS = 6


@dataclass(frozen=True)
class Truth:
    """The test images as they are: `labels` (N,) class indices, `lesions` (N,) numbers 0..G-1, `rare` class indices."""

    labels: NDArray[np.int64]
    lesions: NDArray[np.int64]
    classes: list[str]
    rare: list[int]

    @cached_property
    def lesion_labels(self) -> NDArray[np.int64]:
        """The class of each lesion (G,): that of most of its images."""
        return majority(self.labels, self.lesions, len(self.classes))

    @cached_property
    def n_lesions(self) -> NDArray[np.int64]:
        """Lesions per class (C,)."""
        return np.bincount(self.lesion_labels, minlength=len(self.classes))

    def by_lesion(self, p: Floats) -> tuple[NDArray[np.float64], Truth]:
        """Probabilities (G, C), the mean over each lesion's images of `p` (N, C), and the truth they are held against."""
        total = np.zeros((len(self.lesion_labels), p.shape[1]))
        np.add.at(total, self.lesions, p)
        n = len(self.lesion_labels)
        return total / np.bincount(self.lesions)[:, None], Truth(self.lesion_labels, np.arange(n), self.classes, self.rare)


def reliability(p: Floats, labels: NDArray[np.int64]) -> pd.DataFrame:
    """Confidence (largest probability) against accuracy in 15 bins of equal width; columns confidence, accuracy, n; no empty bins.

    `p` (N, C), `labels` (N,).
    """
    confidence = p.max(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": p.argmax(1) == labels, "n": 1})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "n": "sum"}).reset_index(drop=True)


def ece(p: Floats, labels: NDArray[np.int64]) -> float:
    """Expected calibration error in 0..1 (Guo et al. 2017): the mean gap between confidence and accuracy, weighted by bin size."""
    bins = reliability(p, labels)
    return float(((bins["confidence"] - bins["accuracy"]).abs() * bins["n"]).sum() / bins["n"].sum())


def confusion(p: Floats, truth: Truth) -> NDArray[np.int64]:
    """Counts (C, C) of images, rows true and columns predicted by argmax of `p` (N, C)."""
    return np.asarray(confusion_matrix(truth.labels, p.argmax(1), labels=range(len(truth.classes))), np.int64)


def one_vs_rest(p: Floats, truth: Truth) -> pd.DataFrame:
    """Per class (rows), from probabilities `p` (N, C): precision (0 where never predicted), recall and f1 at argmax, ap, auc.

    A class without a test image has NaN.
    """
    numbers = range(len(truth.classes))
    precision, recall, f1, n = precision_recall_fscore_support(truth.labels, p.argmax(1), labels=numbers, zero_division=0)
    here = np.flatnonzero(n)
    ap, auc = np.full((2, len(n)), np.nan)
    ap[here] = [average_precision_score(truth.labels == c, p[:, c]) for c in here]
    auc[here] = [roc_auc_score(truth.labels == c, p[:, c]) for c in here]
    table = pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "ap": ap, "auc": auc}, index=truth.classes)
    table.loc[n == 0] = np.nan
    return table


def scores(p: Floats, truth: Truth) -> dict[str, float]:
    """One classifier's scores in 0..1 (brier 0..2) for probabilities `p` (N, C): classes by argmax, curves one-vs-rest.

    `rare_*` is the unweighted mean over the rare classes, `brier` the squared error summed over classes
    (Brier 1950). Classes without a test image are left out of the means.
    """
    table = one_vs_rest(p, truth)
    mean, rare = table.mean(), table.iloc[truth.rare].mean()
    hot = truth.labels[:, None] == np.arange(len(truth.classes))
    return {
        "accuracy": float((p.argmax(1) == truth.labels).mean()),
        "balanced_accuracy": float(mean["recall"]),
        "macro_f1": float(mean["f1"]),
        "rare_f1": float(rare["f1"]),
        "rare_ap": float(rare["ap"]),
        "rare_auc": float(rare["auc"]),
        "roc_auc_ovr": float(mean["auc"]),
        "ece": ece(p, truth.labels),
        "brier": float(((p - hot) ** 2).sum(1).mean()),
    }


def over_seeds(members: Floats, truth: Truth) -> tuple[dict[str, float | int], dict[str, float]]:
    """The twelve numbers of metrics/<regime>.json, means over seeds of (S, N, C) and the n's, and the standard deviations over seeds.

    `n_rare_lesions` is that of the smallest rare class. The deviation (n - 1 below) of a single seed is 0.
    """
    rows = [scores(p, truth) for p in members]
    values = {key: [row[key] for row in rows] for key in rows[0]}
    mean = {key: round(float(np.mean(v)), DIGITS) for key, v in values.items()}
    n = {"n_test_lesions": int(truth.n_lesions.sum()), "n_rare_lesions": int(truth.n_lesions[truth.rare].min()), "n_seeds": len(members)}
    return mean | n, {key: round(float(np.std(v, ddof=min(1, len(v) - 1))), DIGITS) for key, v in values.items()}


def per_class(members: Floats, truth: Truth) -> dict[str, dict[str, Any]]:
    """Per class: precision, recall, F1, AP and AUC (means over seeds of (S, N, C)) and n; recall only from 30 lesions on."""
    tables = [one_vs_rest(p, truth) for p in members]
    mean = dict(zip(tables[0].columns, np.mean([t.to_numpy() for t in tables], axis=0).T, strict=True))
    images = np.bincount(truth.labels, minlength=len(truth.classes))
    result: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(truth.classes):
        entry: dict[str, Any] = {"n_images": int(images[c]), "n_lesions": int(truth.n_lesions[c])}
        if images[c]:
            entry |= {key: round(float(values[c]), DIGITS) for key, values in mean.items()}
            if truth.n_lesions[c] < LEAST_LESIONS:
                entry["recall"] = TOO_FEW
        result[name] = entry
    return result


def proportion(hits: NDArray[np.bool_]) -> dict[str, Any]:
    """A share with its Wilson 95% interval and n; "too few" under 30."""
    n = len(hits)
    if n < LEAST_LESIONS:
        return {"value": TOO_FEW, "n": n}
    found = binomtest(int(hits.sum()), n).proportion_ci(method="wilson")
    return {"value": round(float(hits.mean()), DIGITS), "low": round(float(found.low), DIGITS), "high": round(float(found.high), DIGITS), "n": n}


def at_thresholds(p: Floats, truth: Truth, thresholds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Per rare disease, what its thresholds from cal do on test lesions; `p` (N, C) of the ensemble, averaged over each lesion.

    sensitivity and specificity are those of "present"; `missed` is the share of the diseased called absent, `ruled_out` that of the others.
    """
    lesion, one = truth.by_lesion(p)
    result = {}
    for name, cut in sorted(thresholds.items()):
        c = truth.classes.index(name)
        chance, ill = lesion[:, c], one.labels == c
        present, absent = chance >= cut["present"], chance < cut["absent"]
        result[name] = {
            "present_from": cut["present"],
            "absent_under": cut["absent"],
            "sensitivity": proportion(present[ill]),
            "specificity": proportion(~present[~ill]),
            "missed": proportion(absent[ill]),
            "ruled_out": proportion(absent[~ill]),
            "cannot_say": proportion(~(present | absent)),
        }
    return result


def coverage(p: Floats, truth: Truth, conformal: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Per level ("0.90"), the share of each class's test lesions whose conformal set holds the truth, and the mean set size."""
    lesion, one = truth.by_lesion(p)
    result: dict[str, Any] = {}
    for level, quantiles in sorted(conformal.items()):
        limits = [quantiles[c] for c in truth.classes]
        if any(q is None for q in limits):
            result[level] = TOO_FEW
            continue
        inside = 1 - lesion <= np.array(limits, float) + 1e-9
        result[level] = {
            "mean_size": round(float(inside.sum(1).mean()), DIGITS),
            "covered": {name: proportion(inside[one.labels == c, c]) for c, name in enumerate(truth.classes)},
        }
    return result


def age_band(age: float) -> str | None:
    """The band of an age in years; None when it is not known."""
    if pd.isna(age):
        return None
    return "under 40" if age < 40 else "40 to 59" if age < 60 else "60 and over"


def subgroups(p: Floats, truth: Truth, attributes: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Per attribute (columns of `attributes`, N rows) and value: accuracy over lesions and each rare disease's recall, both at argmax.

    Numbers only from 30 lesions on; a lesion's attribute is that of its first image that has one; unknown values are left out.
    """
    lesion, one = truth.by_lesion(p)
    right = lesion.argmax(1) == one.labels
    first = attributes.groupby(truth.lesions).first()
    if "age" in first:
        first["age"] = pd.to_numeric(first["age"], errors="coerce").map(age_band)
    result: dict[str, dict[str, Any]] = {}
    for column in sorted(first.columns):
        values = first[column].fillna("").astype(str).to_numpy()
        result[column] = {}
        for value in sorted(set(values) - {""}):
            mine = values == value
            recall = {truth.classes[c]: proportion(right[mine & (one.labels == c)]) for c in truth.rare}
            result[column][value] = {"accuracy": proportion(right[mine]), "recall": recall}
    return result
