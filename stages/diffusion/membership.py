"""How much an adapter lowers the denoising loss of single images: more for those it was trained on, if it has learned them by heart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from stages.dataset.card import Card
from stages.dataset.table import decode
from stages.diffusion import adapter
from stages.diffusion.adapter import context
from stages.diffusion.base import load_base, side
from stages.diffusion.pretraining import denoising_errors, encode
from stages.diffusion.prompts import render_prompts
from stages.runtime.determinism import seed_of
from stages.runtime.parallel import Tick, each
from stages.runtime.params import Audit

BATCH = 16


@torch.no_grad()
def gains(
    pipe: Any, images: NDArray[np.uint8], prompts: Sequence[str], plain: Sequence[str], pairs: int, seed: int, threads: int, what: str
) -> NDArray[np.float64]:
    """The base's denoising loss minus that of the adapter on `pipe` (token and LoRA loaded, not fused), (N,): the mean over `pairs` noise levels.

    `images` (N, S, S, 3) uint8 at the base's side; `prompts` (N,) name the learned token, `plain` (N,) the same images in words for the base.
    Each level has one noise, the same for every image. `threads` processes share the batches, under a bar that says `what`.
    """
    latents = encode(pipe.vae, images)
    levels = ((torch.arange(pairs) + 0.5) * pipe.scheduler.config.num_train_timesteps / pairs).long()
    noises = torch.randn((pairs, *latents.shape[1:]), generator=torch.Generator().manual_seed(seed_of("membership", seed))).to(latents)

    def batch(start: int, tick: Tick) -> NDArray[np.float64]:
        part = slice(start, start + BATCH)
        x = latents[part].contiguous(memory_format=torch.channels_last)

        def losses(words: torch.Tensor) -> NDArray[np.float64]:
            of_levels = [
                denoising_errors(pipe.unet, x, words, level.repeat(len(x)).to(x.device), noise.expand_as(x), pipe.scheduler)
                for level, noise in zip(levels, noises, strict=True)
            ]
            return torch.stack(of_levels).mean(0).double().cpu().numpy()

        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):  # as the LoRA was trained
            own = losses(context(pipe, prompts[part]))
            pipe.disable_lora()
            gained = losses(context(pipe, plain[part])) - own
            pipe.enable_lora()
        tick(1)
        return gained

    starts = range(0, len(images), BATCH)
    return np.concatenate(each(batch, starts, threads, what, "batch", len(starts)))


def learned(
    base_dir: Path, folder: Path, disease: str, card: Card, tables: Sequence[pd.DataFrame], p: Audit, threads: int
) -> list[NDArray[np.float64]]:
    """`gains` by the adapter in `folder` on the images of each of `tables` (refined rows, one or more), (N,) each; `LawError` when it has no effect."""
    pipe, base = load_base(base_dir)
    info = adapter.load_adapter(pipe, folder, base["hash"])
    adapter.require_effect(pipe, folder, render_prompts(card.prompts[disease], {}, info["token"])[0])
    found = []
    for table in tables:
        known = table.drop(columns="image").to_dict("records")
        own, plain = ([render_prompts(card.prompts[disease], row, name)[0] for row in known] for name in (info["token"], card.classes[disease].title))
        found.append(gains(pipe, decode(table["image"], side(pipe)), own, plain, p.noise_levels, p.seed, threads, f"{disease}: membership"))
    return found
