"""Where labels and a model disagree: a list for a person to review, by confident learning (Northcutt et al., JAIR 2021, 70:1373)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
FOLDS = 5
COMPONENTS = 64
LEAST_GROUPS = 10  # a class with fewer cannot be held out
MIXED = 2  # labels in a group that is left out of training and list: nobody knows which is right


def probabilities(features: Floats, codes: NDArray[np.int64], groups: NDArray[np.object_]) -> Floats:
    """Out-of-fold class probabilities (N, C), by group: multinomial logistic regression on principal components of `features` (N, D).

    Classes weigh the same: otherwise every image of a rare disease would be doubted, for being rare. The components, which know no label,
    are those of all images.
    """
    parts = PCA(min(COMPONENTS, features.shape[1], len(features) // 2), svd_solver="covariance_eigh").fit_transform(features)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(model, parts, codes, groups=groups, cv=folds, method="predict_proba"))


def disagreements(p: Floats, codes: NDArray[np.int64]) -> pd.DataFrame:
    """The images that are counted off the diagonal of the confident joint, worst first: row, suggested (class code), own, other (probabilities).

    A class's threshold is the mean probability of it among the images labelled so, which allows for classes of different size. An image
    counts where another class reaches its threshold; of several the most probable one. Ranked by self-confidence, the probability of its
    own label.
    """
    thresholds = np.array([p[codes == c, c].mean() for c in range(p.shape[1])])
    confident = np.where(p >= thresholds, p, -1.0)
    suggested, rows = confident.argmax(1), np.arange(len(p))
    off = (confident.max(1) >= 0) & (suggested != codes)
    found = pd.DataFrame({"row": rows, "suggested": suggested, "own": p[rows, codes], "other": p[rows, suggested]})[off]
    return found.sort_values(["own", "row"], ignore_index=True)


def review(table: pd.DataFrame, features: Floats, top: int) -> pd.DataFrame:
    """The `top` training images whose label a simple model doubts most: id, label, suggested, probability (of the suggested class), row.

    `features` (N, D) say what is in each picture; `row` counts in `table`. Empty where
    fewer than two classes have ten groups; groups of several labels are left out.
    """
    kinds = table.groupby("group")["label"].transform("nunique")
    enough = table.groupby("label")["group"].transform("nunique") >= LEAST_GROUPS
    kept = np.flatnonzero((kinds < MIXED) & enough)
    part = table.iloc[kept]
    codes, names = pd.factorize(part["label"], sort=True)
    if len(names) < 2:
        return pd.DataFrame({"id": [], "label": [], "suggested": [], "probability": [], "row": []})
    p = probabilities(features[kept], codes, part["group"].to_numpy(object))
    found = disagreements(p, codes).head(top)
    rows = found["row"].to_numpy(int)
    return pd.DataFrame(
        {
            "id": part["id"].to_numpy()[rows],
            "label": part["label"].to_numpy()[rows],
            "suggested": np.asarray(names)[found["suggested"].to_numpy(int)],
            "probability": found["other"].round(3),
            "row": kept[rows],
        }
    )
