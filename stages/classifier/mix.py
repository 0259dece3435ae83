"""What each regime and seed trains on: real rows of the split, repeated real rows, synthetic rows, fresh real rows of the oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.dataset.table import read_table
from stages.runtime.errors import LawError, UserError
from stages.runtime.params import Params, Selection

KINDS = ("real", "synthetic", "oracle")
#: Regimes that need synthetic images.
SYNTHETIC = ("synth", "combined", "curriculum")
ORACLE = "oracle"
Draw = dict[int, list[str]]


def read_synthetic(folder: Path, rare: Sequence[str], split: pd.DataFrame, select: Selection) -> pd.DataFrame:
    """Synthetic images (id, label, p, image) that may be chosen, of the diseases in `rare`, whatever else lies in `folder`.

    `p` is the judge's probability of the image's own label. The accepted ones; with `select` "off" what the generator gives
    without a filter, the first finite image of each slot; with "hard" those of the accepted ones of which the judge finds
    no other class more likely: hard but correct. Raises `LawError` when one carries the id of a real image or another disease's label.
    """
    parts = []
    judged = [f"p_{c}" for c in sorted(split["label"].unique())]
    for disease in sorted(rare):
        table = read_table(folder / disease, ["id", "label", "accepted", "slot", "attempt", *judged, "image"])
        if set(table["label"]) - {disease}:
            raise LawError(f"{folder / disease} holds images labelled {sorted(set(table['label']) - {disease})}")
        first = table[table["image"].notna()].sort_values(["slot", "attempt"]).drop_duplicates("slot")
        eligible = first if select == "off" else table[table["accepted"]]
        if select == "hard":
            eligible = eligible[eligible[f"p_{disease}"] == eligible[judged].max(axis=1)]
        parts.append(eligible.rename(columns={f"p_{disease}": "p"})[["id", "label", "p", "image"]])
    joined = pd.concat(parts, ignore_index=True)
    real = set(joined["id"]) & set(split["id"])
    if real:
        raise LawError(f"{folder}: synthetic image {sorted(real)[0]!r} has the id of a real image of the split")
    return joined


def shuffled(ids: Sequence[str]) -> list[str]:
    """`ids` in an order fixed by their hashes."""
    return sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())


def draw(candidates: pd.DataFrame, seeds: Sequence[int], per_class: int, disease: str, select: Selection) -> Draw:
    """Disjoint draws of `per_class` ids per seed from `candidates` (id, p), synthetic images of `disease`.

    "easy" and "hard" take those of which the judge is surest, or least sure, and deal them out in turn; else chance decides (the
    ids' hashes), so that modes are mixed. Raises `UserError` when there are too few.
    """
    need = per_class * len(seeds)
    if len(candidates) < need:
        raise UserError(
            f"{disease}: {len(seeds)} seeds of mix.per_class = {per_class} need {need} accepted synthetic images, "
            f"there are {len(candidates)}: look at the disease's rejected.png under data/synthetic; raise generate.pool, generate.max_attempts or "
            "lora_train.steps, or lower judge.accept or mix.per_class"
        )
    if select in ("easy", "hard"):
        ranked = candidates.sort_values(["p", "id"], ascending=[select == "hard", True])["id"].tolist()[:need]
        return {s: ranked[k :: len(seeds)] for k, s in enumerate(seeds)}
    order = shuffled(candidates["id"].tolist())
    return {s: order[k * per_class : (k + 1) * per_class] for k, s in enumerate(seeds)}


def oracle_wants(split: pd.DataFrame, rare: Sequence[str], per_class: int) -> str | None:
    """Why no oracle can be trained on `split`, None when one can: each rare class needs `per_class` fresh images, one seed's worth."""
    here = split.loc[split["split"] == ORACLE, "label"].value_counts()
    few = [f"{d} has {here.get(d, 0)}" for d in sorted(rare) if here.get(d, 0) < per_class]
    if not few:
        return None
    return f"an oracle needs mix.per_class = {per_class} fresh real images of each rare class in split `oracle`; {', '.join(few)}"


def draw_oracle(split: pd.DataFrame, seeds: Sequence[int], per_class: int, disease: str) -> Draw:
    """`per_class` fresh real images of `disease` per seed, never one twice within a seed; seeds share images where there are too few for all."""
    order = shuffled(split.loc[(split["split"] == ORACLE) & (split["label"] == disease), "id"].tolist())
    return {s: [order[(k * per_class + j) % len(order)] for j in range(per_class)] for k, s in enumerate(seeds)}


def build(
    regime: str,
    split: pd.DataFrame,
    rare: Sequence[str],
    seeds: Sequence[int],
    per_class: int,
    synthetic: pd.DataFrame | None = None,
    select: Selection = "random",
    repeats: int = 0,
) -> pd.DataFrame:
    """The mix (seed, id, label, kind, phase) of `regime`, one row per image and seed; repeated images are repeated rows.

    real, weighted, randaugment: the train rows. duplicate: plus `per_class` repeats of each rare class's real images.
    combined: plus `per_class` synthetic images of each rare class, chosen from `synthetic` (id, label, p) as `select` says. synth: those
    instead of the rare classes' real ones. oracle: fresh real images in place of combined's synthetic ones. curriculum: synth's
    rows in phase 1, real's in phase 2; every other regime has one phase, 1. `repeats` of each rare class's real images may be added to any
    of these (curriculum: in phase 2).
    """
    if (regime in SYNTHETIC) != (synthetic is not None):
        raise UserError(f"regime {regime} {'needs' if regime in SYNTHETIC else 'takes no'} --synthetic")
    if regime == ORACLE and (reason := oracle_wants(split, rare, per_class)):
        raise UserError(reason)
    real = split.loc[split["split"] == "train", ["id", "label"]].sort_values("id")
    added: Callable[[str], Draw] | None = None
    if synthetic is not None:
        added = lambda d: draw(synthetic[synthetic["label"] == d], seeds, per_class, d, select)  # noqa: E731
    elif regime == ORACLE:
        added = lambda d: draw_oracle(split, seeds, per_class, d)  # noqa: E731
    kind = ORACLE if regime == ORACLE else "synthetic"
    drawn = {d: added(d) for d in rare} if added else {}
    rows: list[tuple[int, str, str, str, int]] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for name, label in real.itertuples(index=False):
            if regime == "curriculum":
                rows.append((seed, name, label, "real", 2))
            if not (regime in ("synth", "curriculum") and label in rare):
                rows.append((seed, name, label, "real", 1))
        for d in sorted(rare):
            own = real.loc[real["label"] == d, "id"].tolist()
            if not own:
                raise UserError(f"{d} has no training image; a regime without any cannot be compared")
            again = per_class if regime == "duplicate" else repeats
            repeated = (own * (again // len(own))) + rng.permutation(own)[: again % len(own)].tolist()  # equally often, the remainder by chance
            rows += [(seed, name, d, "real", 2 if regime == "curriculum" else 1) for name in repeated]
            if drawn:
                rows += [(seed, name, d, kind, 1) for name in drawn[d][seed]]
    return pd.DataFrame(rows, columns=["seed", "id", "label", "kind", "phase"])


def plan(
    params: Params, regime: str, split: pd.DataFrame, seeds: Sequence[int], images: pd.Series, synthetic_dir: Path | None
) -> tuple[pd.DataFrame, pd.Series]:
    """What `seeds` of `regime` train on under `params`: the mix (`build`), and the encoded images by id that its rows are of.

    `images` are the real ones; the synthetic ones are read from `synthetic_dir`, which only the regimes of `SYNTHETIC` take.
    """
    own = params.mix
    synthetic = None if synthetic_dir is None else read_synthetic(synthetic_dir, params.rare, split, own.select)
    repeats = getattr(params.regime(regime), "repeats", 0)
    rows = build(regime, split, params.rare, seeds, own.per_class, synthetic, own.select, repeats)
    return rows, images if synthetic is None else pd.concat([images, synthetic.set_index("id")["image"]])
