"""Curves of a regime as tables, for `dvc plots show` and the figures: means over seeds on a common grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from stages.metrics.classification import LEAST_LESIONS, Truth, reliability

Floats = NDArray[np.floating[Any]]
GRID = np.linspace(0, 1, 101)
DIGITS = 6


def roc(members: Floats, truth: Truth) -> pd.DataFrame:
    """ROC of each rare class, averaged over seeds at fixed fpr (columns disease, fpr, tpr); `members` (S, N, C)."""
    parts = []
    for c in truth.rare:
        lines = []
        for p in members:
            fpr, tpr, _ = roc_curve(truth.labels == c, p[:, c])
            lines.append(np.interp(GRID, fpr, tpr))
        mean = np.mean(lines, axis=0)
        mean[0] = 0.0
        parts.append(pd.DataFrame({"disease": truth.classes[c], "fpr": GRID, "tpr": mean}))
    return pd.concat(parts, ignore_index=True).round(DIGITS)


def precision_recall(members: Floats, truth: Truth) -> pd.DataFrame:
    """Precision at each recall of each rare class (the best at that recall or beyond), averaged over seeds (columns disease, recall, precision)."""
    parts = []
    for c in truth.rare:
        lines = []
        for p in members:
            precision, recall, _ = precision_recall_curve(truth.labels == c, p[:, c])  # recall falls from 1 to 0, a point without images
            best = np.maximum.accumulate(precision[:-1])
            lines.append(best[np.searchsorted(-recall[:-1], -GRID, side="right") - 1])
        parts.append(pd.DataFrame({"disease": truth.classes[c], "recall": GRID, "precision": np.mean(lines, axis=0)}))
    return pd.concat(parts, ignore_index=True).round(DIGITS)


def calibration(members: Floats, truth: Truth) -> pd.DataFrame:
    """Confidence against accuracy over all seeds (columns disease, confidence, accuracy, n); `disease` says all classes.

    Bins of fewer than 30 predictions are left out (the fullest one stays).
    """
    table = reliability(np.concatenate(list(members)), np.tile(truth.labels, len(members)))
    table = table[table["n"] >= min(LEAST_LESIONS, table["n"].max())]
    table.insert(0, "disease", "all classes")
    return table.round(DIGITS)
