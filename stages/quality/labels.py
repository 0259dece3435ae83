"""Where labels and a model disagree: a list for a person to review, by confident learning (cleanlab; Northcutt et al., JAIR 2021, 70:1373)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
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


def review(table: pd.DataFrame, features: Floats, top: int) -> pd.DataFrame:
    """The `top` training images whose label a simple model doubts most: id, label, suggested (the most probable other
    class), probability (of that one), row.

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
    # Off the diagonal of the confident joint, ranked by the probability of the own label.
    rows = find_label_issues(codes, p, return_indices_ranked_by="self_confidence", filter_by="confident_learning", n_jobs=1)[:top]
    others = np.where(np.arange(p.shape[1]) == codes[:, None], -1.0, p)[rows]
    return pd.DataFrame(
        {
            "id": part["id"].to_numpy()[rows],
            "label": part["label"].to_numpy()[rows],
            "suggested": np.asarray(names)[others.argmax(1)],
            "probability": others.max(1).round(3),
            "row": kept[rows],
        }
    )
