"""Make `models/base`: a small Stable Diffusion and a small backbone that have seen drawings of the common classes only.

In:  params.yaml (block `pretrain`); the drawings come from namespaces of their own (`stages/imaging/corpus.py`).
Out: OUT_DIR/{tokenizer,text_encoder,unet,vae,scheduler}/ and model_index.json (a diffusers `StableDiffusionPipeline`,
     fp16 safetensors), OUT_DIR/backbone/ (timm weights), groups_seen.txt, card.json, card.md, samples.png.

    python -m stages.pretrain OUT_DIR        (frozen in dvc.yaml: about an hour on two cores)

Finished parts are kept in .cache/pretrain, keyed by their parameters, so that an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.runtime import determinism  # before torch

import torch  # noqa: E402
from safetensors.torch import load_file, save_file

from stages.diffusion.pretraining import build_pipeline, build_tokenizer, encode, scale_latents, train_autoencoder, train_denoiser
from stages.imaging import corpus, phantoms
from stages.runtime.params import Pretrain


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


def make_pipeline(p: Pretrain) -> tuple[Any, dict[str, list[float]]]:
    """The trained pipeline and its training curves (autoencoder: PSNR in dB; denoiser: loss)."""
    tokenizer = build_tokenizer()
    torch.manual_seed(p.seed)
    pipe = build_pipeline(tokenizer, p.size, tuple(p.denoiser.widths), tuple(p.autoencoder.widths))
    a, d = p.autoencoder, p.denoiser
    curves = {
        "autoencoder": cached(
            "autoencoder", {"size": p.size, "seed": p.seed, **a.model_dump()}, pipe.vae,
            lambda: train_autoencoder(pipe.vae, corpus.variety(a.images, p.size), steps=a.steps, batch=a.batch, lr=a.lr, seed=p.seed),
        )
    }  # fmt: skip
    images, prompts, _ = corpus.captioned(d.images, p.size)
    scale_latents(pipe.vae, images[:1000])
    latents = encode(pipe.vae, images)
    both = torch.nn.ModuleList([pipe.unet, pipe.text_encoder])
    key = {"pretrain": p.model_dump(exclude={"backbone"})}
    curves["denoiser"] = cached(
        "denoiser", key, both,
        lambda: train_denoiser(pipe, latents, prompts, steps=d.steps, batch=d.batch, lr=d.lr, seed=p.seed),
    )  # fmt: skip
    return pipe, curves
