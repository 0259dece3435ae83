"""Train the classifiers of one regime, one per seed, and calibrate them.

In:  dataset card, refined images, split, base (starting weights), for synth and combined the synthetic images.
Out: MIX (seed, id, label, kind: what each seed trains on, one row per image, written first);
     OUT_DIR/seed<k>.safetensors, ood.safetensors (what known images look like), model.json (classes, transform, exposures,
     temperatures, class bias, thresholds, conformal quantiles, out-of-distribution limits, priors, hashes), groups_seen.txt.

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
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score

from stages.classifier import backbone, mix, ood
from stages.classifier.calibration import conformal_quantiles, disease_thresholds, fit_shift, fit_temperature, shift
from stages.classifier.fit import Recipe, batches, class_weights, fit
from stages.classifier.predictor import tempered
from stages.classifier.start import seen_by_start, start_weights
from stages.dataset.card import Card, read_card_to_learn
from stages.dataset.groups import group_hash, majority, read_split, refuse_overlap, write_seen
from stages.dataset.table import decode, read_table
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, sha256, write_json, write_text
from stages.runtime.parallel import Tick, each
from stages.runtime.params import Params, read_params


def macro_ap(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean one-vs-rest average precision of the classes present in `labels` (N,), of logits (N, C): the selection score."""
    log_p = log_softmax(logits, axis=1)
    return float(np.mean([average_precision_score(labels == c, log_p[:, c]) for c in np.unique(labels)]))


def exposures(labels: NDArray[np.int64], kinds: NDArray[np.str_], classes: list[str], recipe: Recipe) -> dict[str, dict[str, int]]:
    """How often each class was shown, by kind, in one run of `recipe` over rows with `labels` and `kinds`."""
    rows = torch.cat(batches(len(labels), recipe.steps, recipe.batch, torch.Generator().manual_seed(recipe.seed))).numpy()
    shown = pd.crosstab(labels[rows], kinds[rows]).reindex(index=range(len(classes)), columns=list(mix.KINDS), fill_value=0)
    return {c: dict(zip(mix.KINDS, counts, strict=True)) for c, counts in zip(classes, shown.to_numpy().tolist(), strict=True)}


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
            **t.model_dump(include={"steps", "batch", "lr", "weight_decay", "loss", "focal_gamma", "checkpoints", "augment"}),
            **params.regime(regime).model_dump(include={"class_weighting", "randaugment"}),
            "start_sha256": sha256(start / backbone.WEIGHTS) if start else ("timm pretrained" if t.pretrained else "random"),
        },
    }


def main() -> None:
    """Read, write the mix, train each seed, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regime")
    for name in ("card", "refined", "split", "base_dir", "mix", "out_dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--synthetic", type=Path)
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    own, t, classes = params.regime(args.regime), params.train, card.class_names
    determinism.fix(params.threads)
    start = start_weights(args.base_dir, t.backbone)
    seen = seen_by_start(args.base_dir, start)
    refuse_overlap(seen, split, f"base {args.base_dir}")
    unknown = sorted(set(params.rare) - set(classes))
    if unknown:
        raise UserError(f"params.yaml: rare names {', '.join(unknown)}, which {args.card} does not have; it has {', '.join(classes)}")

    # --- what each seed trains on
    if empty := {"val", "cal"} - set(split["split"]):
        raise UserError(f"{args.split}: no image in {' and '.join(sorted(empty))}; raise split.{min(empty)} in params.yaml")
    table = read_table(args.refined, ["id", "image"]).set_index("id")["image"]
    synthetic = mix.read_synthetic(args.synthetic, params.rare, split) if args.synthetic else None
    plan = describe(params, card, args.regime, start)
    everyone = [*plan["seeds"], *plan["aa_seeds"]]
    rows = mix.build(args.regime, split, params.rare, everyone, params.mix.per_class, synthetic)
    write_text(args.mix, rows.to_csv(index=False))
    pool = table if synthetic is None else pd.concat([table, synthetic.set_index("id")["image"]])
    used = sorted(rows["id"].unique())
    where = {name: k for k, name in enumerate(used)}
    pixels = decode(pool.loc[used], params.refine.size)
    number = {c: i for i, c in enumerate(classes)}

    chosen = split[split["split"] == "val"]
    val, val_labels = decode(table.loc[chosen["id"]], params.refine.size), np.asarray(chosen["label"].map(number), np.int64)

    # --- one classifier a seed
    out = fresh(args.out_dir)
    cal = split[split["split"] == "cal"]
    cal_images = decode(table.loc[cal["id"]], params.refine.size)
    train = split[split["split"] == "train"]
    train_images, train_labels = decode(table.loc[train["id"]], params.refine.size), np.asarray(train["label"].map(number), np.int64)

    def learn(seed: int, tick: Tick) -> dict[str, Any]:
        mine = rows[rows["seed"] == seed]
        index = mine["id"].map(where).to_numpy()
        labels = np.asarray(mine["label"].map(number), np.int64)
        recipe = Recipe(
            steps=t.steps, batch=t.batch, lr=t.lr, weight_decay=t.weight_decay, augment=t.augment, seed=seed,
            focal_gamma=t.focal_gamma if t.loss == "focal" else 0.0,
            class_weights=class_weights(labels, len(classes), own.class_weighting),
            randaugment=own.randaugment, checkpoints=t.checkpoints,
        )  # fmt: skip
        model = backbone.build(t.backbone, len(classes), start, t.pretrained, seed)
        score = lambda m: macro_ap(backbone.logits(m, val), val_labels)  # noqa: E731
        step = fit(model, pixels[index], labels, recipe, score=score, tick=lambda: tick(1))
        path = out / f"seed{seed}.safetensors"
        backbone.save(model, path, half=True)
        model = backbone.load(t.backbone, len(classes), path)
        mean, precision = ood.gaussian(backbone.texture(model, train_images), train_labels, len(classes))
        return {
            "step": step,
            "weights": {"file": path.name, "sha256": sha256(path)},
            "exposures": exposures(labels, mine["kind"].to_numpy(str), classes, recipe),
            "cal": backbone.logits(model, cal_images),
            "known": {f"mean{seed}": mean, f"precision{seed}": precision},
            "distance": ood.distances(backbone.texture(model, cal_images), mean, precision),
        }

    learned = each(learn, everyone, params.threads, f"train {args.regime}", "step", t.steps * len(everyone))
    of_seed = dict(zip(map(str, everyone), learned, strict=True))

    # --- calibration, and the record
    ensemble = learned[: len(plan["seeds"])]
    save_file({name: values for one in ensemble for name, values in one["known"].items()}, out / ood.FILE)
    distance = np.mean([one["distance"] for one in ensemble], axis=0)
    cal_labels = np.asarray(cal["label"].map(number), np.int64)
    write_seen(out, seen | {group_hash(g) for g in split.loc[split["split"] == "train", "group"]})
    count_train = rows.loc[rows["seed"] == everyone[0], "label"].value_counts()
    plan["training"]["selected_step"] = {s: one["step"] for s, one in of_seed.items()}
    plan |= {
        **calibrate(np.stack([one["cal"] for one in learned]), cal, classes, plan["rare"], plan["seeds"], everyone),
        "ood": {"sha256": sha256(out / ood.FILE), **ood.fit(distance, cal_images, cal_labels, classes)},
        "weights": {s: one["weights"] for s, one in of_seed.items()},
        "exposures": {s: one["exposures"] for s, one in of_seed.items()},
        "prior_train": {c: round(float(count_train.get(c, 0) / count_train.sum()), 6) for c in classes},
        "base_hash": read_json(args.base_dir / "base.json")["hash"],
        "split_sha256": sha256(args.split),
        "mix_sha256": sha256(args.mix),
        "groups_sha256": sha256(out / "groups_seen.txt"),
    }
    write_json(out / "model.json", plan)


if __name__ == "__main__":
    run(main)
