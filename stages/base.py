"""Name the base model of this data set and its hashes, or continue it on the split `base` (a hospital's common-class images).

In:  dataset card, refined images, split; params `base` (source: a folder or a hub id with a revision).
Out: OUT_DIR/base.json (source, hashes, whether its training groups are known), groups_seen.txt; with `train: true`
     also OUT_DIR/pipeline (diffusers folder) and OUT_DIR/backbone, continued from the source.

    python -m stages.base CARD REFINED SPLIT OUT_DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from stages.classifier.start import WEIGHTS
from stages.dataset.card import BASE, Card, read_card_to_learn
from stages.dataset.groups import SEEN, group_hash, read_seen, read_split, refuse_overlap, write_seen
from stages.dataset.table import decode, read_table
from stages.diffusion.base import open_pipeline, pipeline_hash, side
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, sha256, write_json
from stages.runtime.params import Base, Params, read_params

#: A continued base, by a hash of what it was made from: the folds of a test set share the split `base`, and so this.
CACHE = Path(".cache/base")


def key_of(params: Params, card: Card, rows: pd.DataFrame, info: dict[str, Any]) -> str:
    """A hash of all that continuing the base `info` on the images `rows` depends on, code included."""
    images = [(name, hashlib.sha256(image).hexdigest()) for name, image in zip(rows["id"], rows["image"], strict=True)]
    known = rows[["label", *(a for a in card.attributes if a in rows)]].to_csv(index=False)
    stages = Path(__file__).parent
    code = {p.relative_to(stages).as_posix(): sha256(p) for p in sorted(stages.rglob("*.py")) if p.parent.name not in ("metrics", "quality")}
    titles = {c: card.classes[c].title for c in card.class_names}
    wanted = [params.base.model_dump(), params.train.model_dump(include={"augment", "backbone", "pretrained"}), params.threads, params.rare]
    return hashlib.sha256(json.dumps([images, known, info, wanted, titles, card.prompts[BASE], code], sort_keys=True).encode()).hexdigest()[:24]


def name_source(p: Base) -> dict[str, Any]:
    """base.json of the source as it is: what it is called, its hashes, its backbone, whether its groups are known."""
    folder = Path(p.source)
    local = folder.is_dir()
    body = Path(p.backbone) if p.backbone else folder / "backbone"
    has_body = (body / WEIGHTS).exists()
    if p.backbone and not has_body:
        raise UserError(f"params.yaml: base.backbone: {body / WEIGHTS} does not exist")
    if not local and not p.revision:
        raise UserError(f"params.yaml: base.source {p.source!r} is not a folder; a hub id needs base.revision, the commit it is pinned to")
    taught = [folder, *([body] if p.backbone else [])]  # a backbone from elsewhere brings its own record
    known = local and all((f / SEEN).exists() for f in taught)
    return {
        "source": p.source,
        "revision": p.revision,
        "hash": pipeline_hash(folder) if local else f"{p.source}@{p.revision}",
        "backbone": body.as_posix() if has_body else None,
        "backbone_name": read_json(body / "backbone.json")["name"] if has_body else None,
        "backbone_hash": sha256(body / WEIGHTS) if has_body else None,
        "trained": False,
        "known_groups": known,
    }


def base_images(card: Card, rows: pd.DataFrame, size: int, rare: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Images, class indices and class names of split `base`; `UserError` when it is empty, holds one class only, or a rare one."""
    if rows.empty:
        raise UserError("base.train is true but split `base` is empty: set split.base to a number of common-class images (params.yaml)")
    classes = sorted(rows["label"].unique())
    if set(classes) & set(rare):
        raise UserError(f"split base holds rare classes {sorted(set(classes) & set(rare))}; the base may see common ones only")
    if len(classes) < 2:
        raise UserError(f"split base holds only {classes[0]}: one class cannot train a backbone; keep base.train: false")
    labels = rows["label"].map({c: i for i, c in enumerate(classes)}).to_numpy(np.int64)
    return decode(rows["image"], size), labels, classes


def continue_base(pipe: Any, card: Card, params: Params, rows: pd.DataFrame, info: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train autoencoder, UNet with text encoder, and backbone on `rows`, from the source's weights; save under `out`."""
    import torch  # here, with what loads it: a base that is only named needs none of them

    from stages.classifier import backbone
    from stages.classifier.fit import Recipe, fit
    from stages.diffusion.pretraining import encode, scale_latents, train_autoencoder, train_denoiser
    from stages.diffusion.prompts import render_prompts
    from stages.imaging import corpus

    p, pipe = params.base, pipe.to(torch.float32)
    size = side(pipe)
    images, labels, classes = base_images(card, rows, size, params.rare)
    # Half real images, half class-free variety: an autoencoder that sees common classes alone loses the colours of rare ones.
    shuffled = np.stack([im[..., np.random.default_rng(k).permutation(3)] for k, im in enumerate(images[: len(images) // 2])])
    train_autoencoder(pipe.vae, np.concatenate([images, shuffled, corpus.variety(len(images) // 2, size, params.threads)]),
                      steps=p.autoencoder_steps, batch=16, lr=p.lr, seed=p.seed)  # fmt: skip
    scale_latents(pipe.vae, images[:1000])
    views = [images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    latents = torch.cat([encode(pipe.vae, np.ascontiguousarray(v)) for v in views])
    attributes: list[dict[str, Any]] = rows[[a for a in card.attributes if a in rows]].to_dict("records")  # type: ignore[assignment]
    rng = np.random.default_rng(p.seed)
    prompts = []
    for label, known in zip(list(rows["label"]) * len(views), attributes * len(views), strict=True):
        texts = render_prompts(card.prompts[BASE], known, card.classes[label].title)
        prompts.append(texts[int(rng.integers(len(texts)))])
    train_denoiser(pipe, latents, prompts, steps=p.denoiser_steps, batch=p.batch, lr=p.lr, seed=p.seed)
    pipe.to(torch.float16).save_pretrained(out / "pipeline", safe_serialization=True)

    name = info["backbone_name"] or params.train.backbone
    start = Path(info["backbone"]) if info["backbone"] else None
    model = backbone.build(name, len(classes), start, params.train.pretrained, p.seed)
    recipe = Recipe(steps=p.backbone_steps, batch=64, lr=p.backbone_lr, weight_decay=0.01, augment=params.train.augment, seed=p.seed)
    with tqdm(total=recipe.steps, desc="backbone", unit=" step", mininterval=1) as bar:
        fit(model, images, labels, recipe, tick=bar.update)
    backbone.save(model, out / "backbone" / WEIGHTS, half=True)
    write_json(out / "backbone" / "backbone.json", {"name": name})
    return {
        **info,
        "hash": pipeline_hash(out / "pipeline"),
        "backbone": "backbone",
        "backbone_name": name,
        "backbone_hash": sha256(out / "backbone" / WEIGHTS),
        "trained": True,
        "continued_from": info["hash"],
        "trained_on": {"images": len(images), "classes": classes},
    }


def main() -> None:
    """Name the source, continue it when asked to, record what it has seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("card", "refined", "split", "out_dir"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    info = name_source(params.base)
    taught = [f for f in (params.base.source, params.base.backbone) if f and info["known_groups"]]
    seen = set().union(*(read_seen(f) for f in taught))
    out = fresh(args.out_dir)
    refuse_overlap(seen, split, f"base {params.base.source}")
    if params.base.train:
        determinism.fix(params.threads, params.base.seed)
        rows = split[split["split"] == "base"].merge(read_table(args.refined).drop(columns=["label", "group", "split"], errors="ignore"), on="id")
        kept = CACHE / key_of(params, card, rows, info)
        if not (kept / "info.json").exists():
            pipe = open_pipeline(params.base.source, params.base.revision)
            write_json(kept / "info.json", continue_base(pipe, card, params, rows, info, fresh(kept)))
        shutil.copytree(kept, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("info.json"))
        info = read_json(kept / "info.json")
        seen |= {group_hash(g) for g in rows["group"]}
    write_seen(out, seen)
    write_json(out / "base.json", info)


if __name__ == "__main__":
    run(main)
