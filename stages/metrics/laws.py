"""What must hold before test is read: the test images are real and sealed, the regimes were trained alike, the judge is not judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.classifier.mix import ORACLE, SYNTHETIC
from stages.dataset.groups import SEALED
from stages.runtime.errors import LawError

#: What may differ between two regimes' training: what makes them regimes, and the step that val chose.
OWN = ("class_weighting", "randaugment", "real_weight", "repeats", "logit_tau", "first", "select", "selected_step")
#: What must be the same in the record (model.json) of every regime.
SHARED = ("dataset", "phantom", "classes", "rare", "backbone", "transform", "seeds", "base_hash")


def check_sealed(split: pd.DataFrame, refined: pd.DataFrame, synthetic: Iterable[str]) -> None:
    """Law 1: every sealed row of `split` (id, label, group, split) is a refined image with the same label and group, and none is synthetic.

    `refined` has the columns id, label, group; `synthetic` every id that was generated, accepted or not.
    """
    generated = set(synthetic)
    sealed = split[split["split"].isin(SEALED)]
    planted = sorted(set(sealed["id"]) & generated)
    if planted:
        part = sealed.loc[sealed["id"] == planted[0], "split"].iloc[0]
        raise LawError(f"synthetic image {planted[0]!r} lies in {part}: val, cal and test hold real images only. Split again (dvc repro).")
    mixed = sorted(set(refined["id"]) & generated)
    if mixed:
        raise LawError(f"synthetic image {mixed[0]!r} lies among the refined real images; refine the raw images again (dvc repro)")
    joined = sealed.merge(refined, on="id", how="left", suffixes=("", "_refined"))
    lost = joined.loc[joined["label_refined"].isna(), ["id", "split"]]
    if len(lost):
        raise LawError(f"image {lost['id'].iloc[0]!r} of {lost['split'].iloc[0]} is not among the refined images: where it comes from is not known")
    other = joined[(joined["label"] != joined["label_refined"]) | (joined["group"] != joined["group_refined"])]
    if len(other):
        raise LawError(f"image {other['id'].iloc[0]!r} has another label or group in the split than in the refined data; split again (dvc repro)")


def check_pixels(test: NDArray[np.uint8], synthetic: NDArray[np.uint8], where: str = "test") -> None:
    """Law 1 against a renamed copy: no image (N, H, W, 3) of the test set `where` has the very pixels of a synthetic one (M, H, W, 3)."""
    drawn = {hashlib.sha256(image.tobytes()).digest() for image in synthetic}
    copies = sum(hashlib.sha256(image.tobytes()).digest() in drawn for image in test)
    if copies:
        raise LawError(f"{copies} image(s) of {where} have the pixels of a synthetic image: a test set holds real images only")


def check_budgets(infos: Mapping[str, Mapping[str, Any]]) -> None:
    """Law 2: the records `infos` (model.json by regime) tell of equal training, exposures and seeds; synthetic images and the oracle's
    were shown to their own regimes alone."""
    first = next(iter(infos))
    for regime, info in infos.items():
        for key in sorted((set(info["training"]) | set(infos[first]["training"])) - set(OWN)):
            ours, theirs = infos[first]["training"].get(key), info["training"].get(key)
            if ours != theirs:
                raise LawError(f"unequal {key}: {first} was trained with {ours}, {regime} with {theirs}. Train both alike (dvc repro).")
        for key in SHARED:
            if info[key] != infos[first][key]:
                raise LawError(f"unequal {key}: {first} has {infos[first][key]}, {regime} has {info[key]}. Train both alike (dvc repro).")
        for seed, shown in info["exposures"].items():
            total = sum(sum(kinds.values()) for kinds in shown.values())
            budget = info["training"]["steps"] * info["training"]["batch"]
            if total != budget:
                raise LawError(f"unequal steps: {regime}, seed {seed}, was shown {total} images, not the {budget} of its steps and batch")
            foreign = [kind for kind, by in (("synthetic", SYNTHETIC), ("oracle", (ORACLE,))) if regime not in by]
            if any(kinds.get(kind) for kinds in shown.values() for kind in foreign):
                control = "" if regime in (*SYNTHETIC, ORACLE) else "is a control and "
                raise LawError(f"{regime} {control}was shown images of a kind that is not its own")


def check_origin(infos: Mapping[str, Mapping[str, Any]], split_sha256: str) -> None:
    """Law 1: every model was trained on this very split."""
    for regime, info in infos.items():
        if info["split_sha256"] != split_sha256:
            raise LawError(f"model {regime} was trained on another split: its training images may lie in this test set. Train it again (dvc repro).")


def check_judge(judge: Mapping[str, Any], infos: Mapping[str, Mapping[str, Any]]) -> None:
    """Law 4: no weights of the judge (judge.json) are the weights of an evaluated model."""
    filters = {entry["sha256"] for entry in judge["weights"].values()}
    for regime, info in infos.items():
        for seed, entry in info["weights"].items():
            if entry["sha256"] in filters:
                raise LawError(f"the judge of the synthetic images is itself evaluated, as {regime}, seed {seed}: the judge is not the judged")
