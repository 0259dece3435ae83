"""Train the classifiers of one regime, one per seed, and calibrate them.

In:  dataset card, refined images, split, base (starting weights), for synth, combined and curriculum the synthetic images.
Out: MIX (seed, id, label, kind, for curriculum also phase: what each seed trains on, one row per image, written first);
     OUT_DIR/seed<k>.safetensors, ood.safetensors (what known images look like), model.json (classes, transform, exposures, scores
     on val, temperatures, class bias, thresholds, conformal quantiles, out-of-distribution limits, priors, hashes), groups_seen.txt.
     Where the regime is left out or the data have no oracle: absent.json, which says why.

    python -m stages.train REGIME CARD REFINED SPLIT BASE_DIR MIX OUT_DIR [--synthetic DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from stages.classifier import backbone, mix, ood
from stages.classifier.calibration import conformal_quantiles, disease_thresholds, fit_shift, fit_temperature, shift
from stages.classifier.predictor import ABSENT, tempered
from stages.classifier.regime import train_seeds
from stages.classifier.start import seen_by_start, start_weights
from stages.dataset.card import Card, read_card_to_learn
from stages.dataset.groups import group_hash, majority, read_split, refuse_overlap, write_seen
from stages.dataset.table import decode, read_table
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, sha256, write_json, write_text
from stages.runtime.params import Params, read_params


def calibrate(
    logits: NDArray[np.float32], cal: pd.DataFrame, classes: list[str], rare: list[str], seeds: list[int], everyone: list[int]
) -> dict[str, Any]:
    """Temperatures per seed, then temperature, bias, thresholds and conformal quantiles of the ensemble, from the images of `cal` (label, group) alone.

    `logits` (S, N, C) of `everyone`, of whom `seeds` come first. A lesion's probability is the mean over its images, as in evaluate.
    """
    number, group = cal["label"].map(classes.index).to_numpy(np.int64), np.unique(cal["group"], return_inverse=True)[1]
    labels = majority(number, group, len(classes))

    def by_lesion(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return pd.DataFrame(p).groupby(group).mean().to_numpy()

    temperature = {str(s): fit_temperature(one, number) for s, one in zip(everyone, logits, strict=True)}
    ensemble = tempered(logits[: len(seeds)], {"temperature": temperature}, seeds).mean(0)
    heat, bias = fit_shift(by_lesion(ensemble), labels)
    p = by_lesion(shift(ensemble, heat, bias))
    # Conformal scores come before that shift, which was fitted on these very lesions: their promise needs scores that were not.
    return {
        "temperature": temperature,
        "ensemble_temperature": heat,
        "bias": dict(zip(classes, bias.tolist(), strict=True)),
        "thresholds": {d: disease_thresholds(p[:, classes.index(d)], labels == classes.index(d)) for d in rare},
        "conformal": {f"{1 - alpha:.2f}": conformal_quantiles(by_lesion(ensemble), labels, classes, alpha) for alpha in (0.1, 0.05)},
        "prior_cal": {c: round(float((labels == i).mean()), 6) for i, c in enumerate(classes)},
        "n_cal": {c: int((labels == i).sum()) for i, c in enumerate(classes)},
    }


def describe(params: Params, card: Card, regime: str, start: Path | None) -> dict[str, Any]:
    """The part of model.json that is known before training."""
    t = params.train
    return {
        "regime": regime,
        "dataset": params.dataset,
        "phantom": card.phantom,
        "classes": card.class_names,
        "rare": sorted(params.rare),
        "backbone": t.backbone,
        "transform": {"size": params.refine.size, "mean": list(backbone.MEAN), "std": list(backbone.STD)},
        "seeds": t.seeds,
        "aa_seeds": params.train_real.aa_seeds if regime == "real" else [],
        "training": {
            **t.model_dump(include={"steps", "batch", "lr", "weight_decay", "loss", "focal_gamma", "frozen_stages", "checkpoints", "augment"}),
            **params.regime(regime).model_dump(exclude={"enabled", "aa_seeds"}),
            **({"select": params.mix.select} if regime in mix.SYNTHETIC else {}),
            "start_sha256": sha256(start / backbone.WEIGHTS) if start else ("timm pretrained" if t.pretrained else "random"),
        },
    }


def left_out(regime: str, params: Params, split: pd.DataFrame) -> str | None:
    """Why `regime` is not trained on `split`; None when it is."""
    if not params.regime(regime).enabled:
        return f"params.yaml: train_{regime}.enabled is false"
    return mix.oracle_wants(split, params.rare, params.mix.per_class) if regime == mix.ORACLE else None


def main() -> None:
    """Read, write the mix, train each seed, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regime")
    for name in ("card", "refined", "split", "base_dir", "mix", "out_dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--synthetic", type=Path)
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    classes = card.class_names
    determinism.fix(params.threads)
    start = start_weights(args.base_dir, params.train.backbone)
    seen = seen_by_start(args.base_dir, start)
    refuse_overlap(seen, split, f"base {args.base_dir}")
    unknown = sorted(set(params.rare) - set(classes))
    if unknown:
        raise UserError(f"params.yaml: rare names {', '.join(unknown)}, which {args.card} does not have; it has {', '.join(classes)}")

    # --- what each seed trains on
    if empty := {"val", "cal"} - set(split["split"]):
        raise UserError(f"{args.split}: no image in {' and '.join(sorted(empty))}; raise split.{min(empty)} in params.yaml")
    if reason := left_out(args.regime, params, split):
        print(f"train_{args.regime}: nothing is trained: {reason}")
        write_text(args.mix, "seed,id,label,kind\n")
        out = fresh(args.out_dir)
        write_json(out / ABSENT, {"regime": args.regime, "reason": reason})
        write_seen(out, [])
        return
    table = read_table(args.refined, ["id", "image"]).set_index("id")["image"]
    plan = describe(params, card, args.regime, start)
    everyone = [*plan["seeds"], *plan["aa_seeds"]]
    rows, pool = mix.plan(params, args.regime, split, everyone, table, args.synthetic)
    write_text(args.mix, (rows if rows["phase"].max() > 1 else rows.drop(columns="phase")).to_csv(index=False))

    # --- one classifier a seed
    val, cal = (split[split["split"] == part] for part in ("val", "cal"))
    shown = {name: decode(table.loc[part["id"]], params.refine.size) for name, part in (("val", val), ("cal", cal))}
    val_labels = np.asarray(val["label"].map(classes.index), np.int64)
    out = fresh(args.out_dir)
    train = split[split["split"] == "train"]
    train_images, train_labels = decode(table.loc[train["id"]], params.refine.size), np.asarray(train["label"].map(classes.index), np.int64)

    def look(seed: int, model: torch.nn.Module) -> dict[str, Any]:
        known = ood.learn(backbone.texture(model, train_images), train_images, train_labels, len(classes))
        return {"known": known, "distance": ood.distances(backbone.texture(model, shown["cal"]), shown["cal"], known)}

    learned = train_seeds(params, args.regime, classes, rows, pool, shown, val_labels, start, out, look)
    of_seed = {str(seed): one for seed, one in learned.items()}

    # --- calibration, and the record
    ensemble = [learned[s] for s in plan["seeds"]]
    save_file(ood.flat({s: learned[s]["known"] for s in plan["seeds"]}), out / ood.FILE)
    distance = np.mean([one["distance"] for one in ensemble], axis=0)
    cal_labels = np.asarray(cal["label"].map(classes.index), np.int64)
    taught = split[split["split"].isin(["train", "oracle"] if args.regime == mix.ORACLE else ["train"])]
    write_seen(out, seen | {group_hash(g) for g in taught["group"]})
    plan["training"]["selected_step"] = {s: one["step"] for s, one in of_seed.items()}
    plan |= {
        **calibrate(np.stack([one["logits"]["cal"] for one in learned.values()]), cal, classes, plan["rare"], plan["seeds"], everyone),
        "ood": {"sha256": sha256(out / ood.FILE), **ood.fit(distance, shown["cal"], cal_labels, classes)},
        **{key: {s: one[key] for s, one in of_seed.items()} for key in ("weights", "exposures", "val", "logit_tau", "val_tau")},
        "n_val": int(val["group"].nunique()),
        "prior_train": dict(zip(classes, learned[everyone[0]]["prior"].round(6).tolist(), strict=True)),
        "base_hash": read_json(args.base_dir / "base.json")["hash"],
        "split_sha256": sha256(args.split),
        "mix_sha256": sha256(args.mix),
        "groups_sha256": sha256(out / "groups_seen.txt"),
    }
    write_json(out / "model.json", plan)


if __name__ == "__main__":
    run(main)
