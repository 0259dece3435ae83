"""Train the judge: one classifier a fold on the real training images of the other folds.

In:  dataset card, refined images, split (train rows with their fold), base (starting weights).
Out: OUT_DIR/fold<k>.safetensors, ood.safetensors (what each fold's images look like), judge.json (classes, accept, colourless, recall and limits
     out of fold, hashes), groups_seen.txt.

    python -m stages.judge CARD REFINED SPLIT BASE_DIR OUT_DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
from safetensors.numpy import save_file

from stages.classifier import backbone, ood
from stages.classifier.fit import Recipe, class_weights, fit
from stages.classifier.start import seen_by_start, start_weights
from stages.dataset.card import read_card_to_learn
from stages.dataset.groups import group_hash, read_split, refuse_overlap, write_seen
from stages.dataset.table import colourless, decode, read_table
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, sha256, write_json
from stages.runtime.parallel import Tick, each
from stages.runtime.params import read_params


def main() -> None:
    """Read, train one model a fold, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("card", "refined", "split", "base_dir", "out_dir"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    p = params.judge
    determinism.fix(params.threads)
    start = start_weights(args.base_dir, p.backbone)
    seen = seen_by_start(args.base_dir, start)
    refuse_overlap(seen, split, f"base {args.base_dir}")

    train = split[split["split"] == "train"].merge(read_table(args.refined, ["id", "image"]), on="id")
    images = decode(train["image"], params.refine.size)
    classes = card.class_names
    labels = np.asarray(train["label"].map(classes.index), np.int64)
    folds = train["fold"].to_numpy(np.int64)
    every = sorted(set(folds.tolist()))
    for fold in every:
        missing = [c for i, c in enumerate(classes) if not (labels[folds != fold] == i).any()]
        if missing:
            raise UserError(f"without fold {fold} no training image of {', '.join(missing)} is left: lower split.folds or add images")
    out = fresh(args.out_dir)

    def learn(fold: int, tick: Tick) -> dict[str, Any]:
        own = folds != fold
        model = backbone.build(p.backbone, len(classes), start, params.train.pretrained, seed=fold)
        recipe = Recipe(
            steps=p.steps, batch=p.batch, lr=p.lr, weight_decay=p.weight_decay, augment=params.train.augment, seed=fold,
            class_weights=class_weights(labels[own], len(classes), p.class_weighting),
        )  # fmt: skip
        fit(model, images[own], labels[own], recipe, tick=lambda: tick(1))
        path = out / f"fold{fold}.safetensors"
        backbone.save(model, path, half=True)
        judged = backbone.load(p.backbone, len(classes), path)
        texture = backbone.texture(judged, images)
        known = ood.learn(texture[own], images[own], labels[own], len(classes))
        distance = ood.distances(texture[~own], images[~own], known)
        return {
            "weights": {"file": path.name, "sha256": sha256(path)},
            "right": backbone.logits(judged, images[~own]).argmax(1) == labels[~own],
            "known": known,
            "distance": distance[:, np.arange(distance.shape[1]), labels[~own]],
        }

    learned = dict(zip(every, each(learn, every, params.threads, "judge", "step", p.steps * len(every)), strict=True))
    right, distance = np.zeros(len(train), bool), np.zeros((len(ood.VIEWS), len(train)))
    for fold, one in learned.items():
        right[folds == fold], distance[:, folds == fold] = one["right"], one["distance"]
    save_file(ood.flat({fold: one["known"] for fold, one in learned.items()}), out / ood.FILE)
    write_seen(out, seen | {group_hash(g) for g in train["group"]})
    write_json(
        out / "judge.json",
        {
            "classes": classes,
            "backbone": p.backbone,
            "accept": p.accept,
            "colourless": colourless(images),
            "weights": {str(fold): one["weights"] for fold, one in learned.items()},
            "ood": {"sha256": sha256(out / ood.FILE), "limits": ood.named(ood.limits(distance, labels, len(classes)), classes)},
            "recall_out_of_fold": {c: {"value": round(float(right[labels == i].mean()), 4), "n": int((labels == i).sum())} for i, c in enumerate(classes)},
        },
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
