"""The loops that make a base: latents whose channels are alike, and a denoiser that two processes train as one would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stages.diffusion.pretraining import build_pipeline, build_tokenizer, denoising_errors, embed, encode, level_latents, reconstruct, train_denoiser
from stages.imaging import corpus

SIZE = 32


def tiny() -> Any:
    torch.manual_seed(0)
    return build_pipeline(build_tokenizer(), SIZE, widths=(16, 32), ae_widths=(8, 16, 16))


def test_levelled_latents_decode_to_the_same_images_and_no_direction_drowns_another() -> None:
    images = corpus.captioned(12, SIZE, "test/pretraining", processes=1).images
    vae = tiny().vae.eval()
    with torch.no_grad():
        vae.quant_conv.weight[0] *= 30  # one channel far above the rest, as training leaves the colour
    before = reconstruct(vae, images)
    spread = spectrum(vae, images)
    level_latents(vae, images)
    assert np.abs(before.astype(int) - reconstruct(vae, images)).max() <= 1
    assert encode(vae, images).std() == pytest.approx(1, abs=1e-3)
    assert spectrum(vae, images) == pytest.approx(spread**0.5, rel=0.05), "variances are drawn together to their square roots"


def spectrum(vae: Any, images: Any) -> float:
    """The largest variance of a direction of the latents over the second largest."""
    values = torch.linalg.eigvalsh(torch.cov(encode(vae, images).double().permute(1, 0, 2, 3).flatten(1)))
    return float(values[-1] / values[-2])


def test_two_processes_take_the_step_that_one_would_and_a_second_run_gives_the_same_bytes() -> None:
    latents, prompts = torch.randn(6, 6, 8, 8, generator=torch.Generator().manual_seed(1)), ["a lesion", "melanoma"] * 3
    learnt = []
    for _ in range(2):
        pipe = tiny()
        train_denoiser(pipe, latents, prompts, steps=1, batch=4, lr=1e-3, seed=3, ema=0.0)
        learnt.append(torch.cat([w.flatten() for w in pipe.unet.parameters()]))
    assert torch.equal(*learnt)

    pipe = tiny()
    modules = torch.nn.ModuleList([pipe.unet, pipe.text_encoder]).train()
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(6, (4,), generator=generator)
    empty = torch.rand(4, generator=generator) < 0.1
    t = torch.randint(1000, (4,), generator=generator)
    noise = torch.randn((4, 6, 8, 8), generator=generator)
    context = embed(pipe, ["" if e else prompts[r] for r, e in zip(rows.tolist(), empty.tolist(), strict=True)])
    denoising_errors(pipe.unet, latents[rows], context, t, noise, pipe.scheduler).mean().backward()
    torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3 / 50, weight_decay=0.01, betas=(0.9, 0.99))  # the first of 50 steps of warm-up
    optimizer.step()
    own = torch.cat([w.detach().flatten() for w in pipe.unet.parameters()])
    # Adam's first step is the sign of the gradient: where that is zero up to rounding, the sum over processes may turn it.
    assert float(((own - learnt[0].detach()).abs() > 2e-6).float().mean()) < 0.01
