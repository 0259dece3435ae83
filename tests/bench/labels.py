"""How much of what is wrong the list of doubtful labels finds: labels turned on purpose. Rows for reports/bench.md.

python -m tests.bench.labels data/refined/phantom data/splits/phantom.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages.classifier import backbone
from stages.dataset.groups import read_split
from stages.dataset.table import Pictures, read_facts
from stages.quality.labels import review
from stages.runtime.params import Params, read_params

SHARE = 0.05  # of the images get a wrong label
PLANTINGS = 10  # each with its own seed
DRAWS = 2000  # of the bootstrap over plantings


def label_rows(refined: Path, split_csv: Path, params: Params) -> list[list[str]]:
    """Rows of `make bench`: precision and recall of the list as the stage makes it (its first `data_report.review`) and of the whole of it.

    The intervals are of the mean over plantings, which turn different lesions of the same images: they say how much luck is in which
    were turned, and not how another data set would fare.
    """
    what = "labels turned on purpose"
    if not (refined.exists() and split_csv.exists()):
        return [[what, "not measured: the phantom is not refined", "-", "-", "-"]]
    table = read_facts(refined)
    table["split"] = table["id"].map(read_split(split_csv).set_index("id")["split"])
    rows = np.flatnonzero(table["split"].isin(["train", "base"]))
    training, images = table.iloc[rows].reset_index(drop=True), Pictures(refined)(rows)
    features = backbone.features(Path("models/base/backbone"), images)
    found = []
    for seed in range(PLANTINGS):
        labels, turned = planted(training, np.random.default_rng(seed))
        with threadpool_limits(1):
            listed = review(training.assign(label=labels), features, len(training))["row"].to_numpy(int)
        first = turned[listed[: params.data_report.review]]
        found.append([first.mean(), first.sum() / turned.sum(), turned[listed].mean(), turned[listed].sum() / turned.sum(), len(listed)])
    scores = np.array(found)
    chance = float(np.mean(turned))
    where = f"{len(training)} phantoms, about {turned.sum()} of them turned, {PLANTINGS} plantings"
    names = (f"the first {params.data_report.review} of the list", "the whole list")
    measured = []
    for name, precision, recall in zip(names, scores[:, [0, 2]].T, scores[:, [1, 3]].T, strict=True):
        ratio = f"{precision.mean() / chance:.1f}"
        measured.append([f"share of {name} that is turned ({where})", told(precision), f"chance: {chance:.0%}", ratio, "over 1"])
        measured.append([f"share of the turned labels in {name}", told(recall), "-", "-", "reported"])
    measured.append(
        ["images in the whole list", f"{scores[:, 4].mean():.0f}", f"turned: {turned.sum()}", f"{scores[:, 4].mean() / turned.sum():.1f}", "reported"]
    )
    return measured


def planted(training: pd.DataFrame, rng: np.random.Generator) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Labels (N,) of which about 5% are turned to another class, drawn uniformly, and which (N,); all images of a lesion together, as a wrong
    diagnosis is: images of one lesion under two labels are found by their group, and are no matter of this list."""
    labels, turned = training["label"].to_numpy(object).copy(), np.zeros(len(training), bool)
    classes, groups = sorted(training["label"].unique()), training["group"].to_numpy()
    for group in rng.permutation(np.unique(groups)):
        if turned.sum() >= SHARE * len(training):
            break
        mine = groups == group
        labels[mine] = rng.choice([name for name in classes if name != labels[mine][0]])
        turned |= mine
    return labels, turned


def told(values: NDArray[np.float64]) -> str:
    """The mean of `values` (B,) with its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{values.mean():.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    determinism.fix(read_params().threads)
    for row in label_rows(Path(sys.argv[1]), Path(sys.argv[2]), read_params()):
        print(" | ".join(row))
