"""What each regime and seed trains on: real rows of the split, repeated real rows, synthetic rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.dataset.table import read_table
from stages.runtime.errors import LawError, UserError

KINDS = ("real", "synthetic", "oracle")
#: Regimes that need synthetic images.
SYNTHETIC = ("synth", "combined")


def read_synthetic(folder: Path, rare: Sequence[str], split: pd.DataFrame) -> pd.DataFrame:
    """Accepted synthetic images (id, label, image) of the diseases in `rare`, whatever else lies in `folder`.

    Raises `LawError` when one carries the id of a real image or another disease's label.
    """
    parts = []
    for disease in sorted(rare):
        table = read_table(folder / disease, ["id", "label", "accepted", "image"])
        if set(table["label"]) - {disease}:
            raise LawError(f"{folder / disease} holds images labelled {sorted(set(table['label']) - {disease})}")
        parts.append(table[table["accepted"]])
    joined = pd.concat(parts, ignore_index=True)
    real = set(joined["id"]) & set(split["id"])
    if real:
        raise LawError(f"{folder}: synthetic image {sorted(real)[0]!r} has the id of a real image of the split")
    return joined


def draw(ids: Sequence[str], seeds: Sequence[int], per_class: int, disease: str) -> dict[int, list[str]]:
    """Disjoint draws of `per_class` ids per seed, in an order fixed by the ids' hashes, so that modes are mixed."""
    if len(ids) < per_class * len(seeds):
        raise UserError(
            f"{disease}: {len(seeds)} seeds of mix.per_class = {per_class} need {per_class * len(seeds)} accepted synthetic images, "
            f"there are {len(ids)}: look at the disease's rejected.png under data/synthetic; raise generate.pool, generate.max_attempts or "
            "lora_train.steps, or lower judge.accept or mix.per_class"
        )
    order = sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())
    return {s: order[k * per_class : (k + 1) * per_class] for k, s in enumerate(seeds)}


def build(
    regime: str, split: pd.DataFrame, rare: Sequence[str], seeds: Sequence[int], per_class: int, synthetic: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The mix (seed, id, label, kind) of `regime`, one row per image and seed; repeated images are repeated rows.

    real, weighted, randaugment: the train rows. duplicate: plus `per_class` repeats of each rare class's real images.
    combined: plus `per_class` synthetic images of each rare class. synth: those instead of the rare classes' real ones.
    """
    if (regime in SYNTHETIC) != (synthetic is not None):
        raise UserError(f"regime {regime} {'needs' if regime in SYNTHETIC else 'takes no'} --synthetic")
    real = split.loc[split["split"] == "train", ["id", "label"]].sort_values("id")
    drawn = {}
    if synthetic is not None:
        for d in rare:
            drawn[d] = draw(synthetic.loc[synthetic["label"] == d, "id"].tolist(), seeds, per_class, d)
    rows: list[tuple[int, str, str, str]] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for name, label in real.itertuples(index=False):
            if not (regime == "synth" and label in rare):
                rows.append((seed, name, label, "real"))
        for d in sorted(rare):
            own = real.loc[real["label"] == d, "id"].tolist()
            if not own:
                raise UserError(f"{d} has no training image; a regime without any cannot be compared")
            if regime == "duplicate":  # every image equally often, the remainder by chance
                repeats = (own * (per_class // len(own))) + rng.permutation(own)[: per_class % len(own)].tolist()
                rows += [(seed, name, d, "real") for name in repeats]
            if synthetic is not None:
                rows += [(seed, name, d, "synthetic") for name in drawn[d][seed]]
    return pd.DataFrame(rows, columns=["seed", "id", "label", "kind"])
