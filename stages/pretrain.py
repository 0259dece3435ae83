"""Make `models/base`: a small Stable Diffusion and a small backbone that have seen drawings of the common classes only.

In:  params.yaml (block `pretrain`); the drawings come from namespaces of their own (`stages/imaging/corpus.py`).
Out: OUT_DIR/{tokenizer,text_encoder,unet,vae,scheduler}/ and model_index.json (a diffusers `StableDiffusionPipeline`,
     fp16 safetensors), OUT_DIR/backbone/ (timm weights), groups_seen.txt, card.json, card.md, samples.png.

    python -m stages.pretrain OUT_DIR        (frozen in dvc.yaml: about three hours on two cores)

Finished parts are kept in .cache/pretrain, keyed by their parameters, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from stages.classifier import backbone
from stages.classifier.fit import Recipe, fit
from stages.dataset.groups import SEEN, group_hash, write_seen
from stages.diffusion import bars
from stages.diffusion.pretraining import build_pipeline, build_tokenizer, encode, level_latents, reconstruct, train_autoencoder, train_denoiser
from stages.imaging import corpus, phantoms
from stages.imaging.sheet import save_sheet
from stages.runtime.errors import run
from stages.runtime.files import fresh, sha256, write_json, write_text
from stages.runtime.params import Augment, Pretrain, PretrainRound, read_params
from stages.runtime.progress import progress_bar

AUGMENT = Augment(flips=True, rotation=180.0, zoom=0.15, colour=0.2)


def cached(part: str, key: dict[str, Any], module: torch.nn.Module, train: Callable[[], list[float]]) -> list[float]:
    """Load `module` from .cache/pretrain when `part` was finished with the same `key`, else train and keep it."""
    digest = hashlib.sha256(json.dumps({"phantoms": phantoms.VERSION, **key}, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(".cache/pretrain") / f"{part}-{digest}.safetensors"
    if path.exists():
        module.load_state_dict(load_file(path))
        return [float(v) for v in json.loads(path.with_suffix(".json").read_text())]
    curve = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(curve))
    return curve


def namespace(turn: int) -> str:
    """Where the captioned drawings of a round come from: every round sees new ones."""
    return "pretrain/captioned" if not turn else f"pretrain/captioned/{turn}"


def make_pipeline(p: Pretrain) -> tuple[Any, dict[str, list[float]]]:
    """The trained pipeline and its training curves (autoencoder: PSNR in dB; denoiser: loss)."""
    tokenizer = build_tokenizer()
    torch.manual_seed(p.seed)
    pipe = build_pipeline(tokenizer, p.size, tuple(p.denoiser.widths), tuple(p.autoencoder.widths)).to(backbone.device())
    a, d = p.autoencoder, p.denoiser
    curves = {
        "autoencoder": cached(
            "autoencoder", {"size": p.size, "seed": p.seed, **a.model_dump()}, pipe.vae,
            lambda: train_autoencoder(pipe.vae, corpus.variety(a.images, p.size), steps=a.steps, batch=a.batch, lr=a.lr, seed=p.seed),
        )
    }  # fmt: skip
    level_latents(pipe.vae, corpus.captioned(1000, p.size).images)

    both = torch.nn.ModuleList([pipe.unet, pipe.text_encoder])
    curves["denoiser"] = []
    for turn, r in enumerate(d.rounds):  # each on new drawings and cached: an hour's work that is interrupted loses little

        def denoise(turn: int = turn, r: PretrainRound = r) -> list[float]:
            drawn = corpus.captioned(r.images, p.size, namespace(turn), tuple(r.classes))
            latents = encode(pipe.vae, drawn.images)
            return train_denoiser(pipe, latents, drawn.texts, steps=r.steps, batch=r.batch, lr=r.lr, seed=p.seed + turn, part=r.part)

        until = {**d.model_dump(mode="json"), "rounds": [each.model_dump(mode="json") for each in d.rounds[: turn + 1]]}
        curves["denoiser"] += cached("denoiser", {"size": p.size, "seed": p.seed, "autoencoder": a.model_dump(), **until}, both, denoise)
    return pipe, curves


def train_backbone(p: Pretrain) -> torch.nn.Module:
    """The timm backbone, trained to tell the common classes of the captioned corpus apart and to read the strength of each drawn feature."""
    b = p.backbone
    classes = len(phantoms.COMMON)
    model = backbone.build(b.name, classes + len(phantoms.FEATURES), seed=p.seed)

    def name_and_read(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        named = F.cross_entropy(out[:, :classes], y[:, :classes])
        return named + 2 * F.binary_cross_entropy_with_logits(out[:, classes:], y[:, classes:])

    def train() -> list[float]:
        drawn = [corpus.captioned(b.images, p.size, namespace(turn)) for turn in range(b.rounds)]
        images, labels, strengths = (np.concatenate([getattr(part, k) for part in drawn]) for k in ("images", "labels", "strengths"))
        targets = np.concatenate([np.eye(classes, dtype=np.float32)[labels], strengths], axis=1)
        recipe = Recipe(steps=b.steps, batch=b.batch, lr=b.lr, weight_decay=0.01, augment=AUGMENT, seed=p.seed)
        with progress_bar("backbone", "step", b.steps) as bar:
            fit(model, images, targets, recipe, tick=bar.update, loss=name_and_read)
        return []

    cached("backbone", {"backbone": b.model_dump(), "size": p.size, "seed": p.seed, "reads": "features"}, model, train)
    return model.eval()


def write_card(out: Path, p: Pretrain, curves: dict[str, list[float]], measured: dict[str, Any]) -> None:
    """card.json and card.md: how the base was made, on what, and how it fares against its bars."""
    write_json(out / "card.json", {"params": p.model_dump(), "curves": curves, "bars": measured, "groups_sha256": sha256(out / SEEN)})
    rec, gen, b = measured["reconstruction"], measured["samples"], p.backbone
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    read = "\n".join(
        f"| {name.replace('_', ' ')} | {f['samples']['value']:.0%} ({f['samples']['low']:.0%} to {f['samples']['high']:.0%}) "
        f"| {f['drawings']['value']:.0%} ({f['drawings']['low']:.0%} to {f['drawings']['high']:.0%}) | {f['chance']:.0%} |"
        for name, f in measured["attributes"].items()
    )
    learnt = "\n".join(
        f"| UNet and text encoder | {r.images} captioned drawings: {', '.join(r.classes)} in turn | {r.steps} | {r.batch} |"
        for r in p.denoiser.rounds
    )
    named = "\n".join(f"| {c} | {gen['named'][c]:.0%} | {gen['scorer_on_real'][c]:.0%} |" for c in [*phantoms.COMMON, "all"])
    write_text(
        out / "card.md",
        f"""# models/base

A small Stable Diffusion (CLIP tokenizer and text encoder, UNet, AutoencoderKL; {p.size} px) and a `{p.backbone.name}`,
made by `python -m stages.pretrain` from drawings alone (`stages/imaging/corpus.py`), on {hardware}.
At the end of training: autoencoder {curves["autoencoder"][-1]:.1f} dB, denoising loss {curves["denoiser"][-1]:.4f}.
UNet, text encoder and backbone have seen the common classes {", ".join(phantoms.COMMON)}; {" and ".join(phantoms.RARE)} never, neither drawn
nor named. The autoencoder has seen class-free drawings: every structure the renderer knows, mixed at random, under no class's rule.
The lesions have a namespace of their own and are in no data set (`groups_seen.txt`). It knows drawings, not patients.

| part | trained on | steps | batch |
|---|---|---|---|
| autoencoder | {p.autoencoder.images} class-free drawings, permuted colours, dead leaves | {p.autoencoder.steps} | {p.autoencoder.batch} |
{learnt}
| backbone | {b.rounds} x {b.images} such drawings: class, strength of {len(phantoms.FEATURES)} features | {b.steps} | {b.batch} |

Reconstruction of unseen drawings, mean per-image PSNR ({rec["n_each"]} each): common {rec["common"]} dB,
{", ".join(f"{c} {rec[c]} dB" for c in phantoms.RARE)}. The bar: 30 dB, rare classes within 1 dB of common ones.

Samples (guidance {bars.GUIDANCE:g}, DPM-Solver++ {bars.STEPS} steps; {gen["n_each"]} a class), named by a classifier trained on fresh drawings. The bar: 80%.

| class | samples named as requested | real drawings named right |
|---|---|---|
{named}

KID of samples to unseen drawings {gen["kid"]["value"]} ({gen["kid"]["low"]} to {gen["kid"]["high"]}),
of drawings to drawings {gen["kid_floor"]["value"]} ({gen["kid_floor"]["low"]} to {gen["kid_floor"]["high"]}).
Attributes that prompts ask for, read by a logistic regression on the backbone's features of fresh drawings, with 95% intervals
(n = {measured["attributes"]["site"]["samples"]["n"]}). No pixel of a drawing depends on the site: there chance is all that can be reached.

| attribute | samples | real drawings | chance |
|---|---|---|---|
{read}

The contact sheet is `samples.png`; `make bench` measures all of this again.
""",
    )


def main() -> None:
    """Train what is not cached, measure the bars, write models/base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    out: Path = parser.parse_args().out_dir
    params = read_params()
    p = params.pretrain
    determinism.fix(params.threads, p.seed)
    pipe, curves = make_pipeline(p)
    body = train_backbone(p)

    fresh(out)
    pipe.to(torch.float16).save_pretrained(out, safe_serialization=True)
    backbone.save(body, out / "backbone" / backbone.WEIGHTS, half=True)
    write_json(out / "backbone" / "backbone.json", {"name": p.backbone.name})
    counts = [r.images for r in p.denoiser.rounds], [p.backbone.images] * p.backbone.rounds
    drawn = {(namespace(turn), i) for used in counts for turn, images in enumerate(used) for i in range(images)}
    write_seen(out, (group_hash(corpus.group_of(*each)) for each in drawn))

    pipe.to(torch.float32)
    judge = bars.scorer(p.size, p.backbone.name)
    samples, pictures = bars.naming(pipe, judge, p.size, n=100)
    rare = corpus.captioned(16, p.size, "bars/sheet", phantoms.RARE).images
    common = len(phantoms.COMMON)
    rows = {f"{c}: samples": pictures["samples"][k::common][:16] for k, c in enumerate(phantoms.COMMON)}
    rows |= {
        "real drawings": pictures["real"][:16],
        "rare drawings, never trained on": rare,
        "the same through the autoencoder": reconstruct(pipe.vae, rare),
    }
    save_sheet(rows, out / "samples.png", zoom=1, generated=True)
    reconstructed, obeyed = bars.reconstruction(pipe.vae, p.size, n=200), bars.attributes_obeyed(pipe, out / "backbone", p.size)
    write_card(out, p, curves, {"reconstruction": reconstructed, "samples": samples, "attributes": obeyed})


if __name__ == "__main__":
    run(main)
