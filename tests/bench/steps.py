"""Seconds of a training step of classifier and UNet, and of DPM-Solver++ sampling: printed as JSON, in a process of its own.

    [RARELENS_NATIVE_CPU=1] python -m tests.bench.steps

Run twice by `make bench`, with and without the fixed CPU capability, which `stages` sets before torch is loaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

from stages.runtime import determinism

import torch

from stages.classifier import backbone
from stages.diffusion.pretraining import build_pipeline, build_tokenizer, denoising_loss, embed
from stages.runtime.params import read_params


def timed(work: Callable[[], object], repeats: int = 8) -> float:
    """Median seconds of `work`, after two calls that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[2:])


def main() -> None:
    """Measure, print."""
    params = read_params()
    determinism.fix(params.threads)
    p, size = params.pretrain, params.refine.size
    model = backbone.build(params.train.backbone, 7, seed=0).train().to(memory_format=torch.channels_last)
    images, labels = backbone.normalise(torch.rand(params.train.batch, 3, size, size)), torch.randint(7, (params.train.batch,))
    pipe = build_pipeline(build_tokenizer(), p.size, tuple(p.denoiser.widths), tuple(p.autoencoder.widths))
    side = pipe.unet.config.sample_size
    latents = torch.randn(params.lora_train.batch, pipe.unet.config.in_channels, side, side)
    with torch.no_grad():
        words = embed(pipe, ["a dermoscopic image"] * len(latents))
    steps = torch.full((len(latents),), 500)

    def classifier() -> None:
        torch.nn.functional.cross_entropy(model(images), labels).backward()

    def unet() -> None:
        denoising_loss(pipe.unet, latents, words, steps, torch.ones_like(latents), pipe.scheduler).backward()

    @torch.no_grad()
    def sample() -> None:
        pipe.unet(latents, steps, words)

    print(json.dumps({"classifier step": timed(classifier), "UNet step": timed(unet), "UNet evaluation": timed(sample)}))


if __name__ == "__main__":
    main()
