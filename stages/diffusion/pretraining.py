"""A small Stable Diffusion, from nothing: tokenizer, text encoder, autoencoder, UNet, and the loops that train them.

Used by `pretrain` (which makes `models/base`) and by `base` (which continues from it on a hospital's own images).
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stages.runtime.parallel import each
from stages.runtime.progress import progress

WORDS = (
    "a an of the on with and year old patient male female man woman child image photo picture dermoscopic skin lesion "
    "actinic keratosis basal cell carcinoma benign melanoma melanocytic nevus back face lower leg trunk upper arm "
    "very light medium tan brown dark brain mri scan axial mammogram breast x ray slice showing normal healthy"
).split()


def build_tokenizer(words: Sequence[str] = tuple(WORDS), length: int = 48) -> Any:
    """A `CLIPTokenizer` in which each of `words` is one token and any other text is spelled in letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789-,.'()/_")
    trained.train_from_iterator(
        # Rank merges by a fixed count, so that the vocabulary does not hang on ties.
        [" ".join([w] * (len(words) - i + 1)) for i, w in enumerate(words)] + letters,
        trainers.BpeTrainer(vocab_size=4000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(set(model["vocab"]) | set(letters) | {c + "</w>" for c in letters})
    vocab = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def build_pipeline(
    tokenizer: Any, size: int, widths: tuple[int, ...], ae_widths: tuple[int, ...], text_dim: int = 128, latent_channels: int = 6
) -> Any:
    """An untrained `StableDiffusionPipeline` for `size` px images with latents of (latent_channels, size/4, size/4) when `ae_widths` has three levels."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    latent = size // 2 ** (len(ae_widths) - 1)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(ae_widths),
        up_block_types=("UpDecoderBlock2D",) * len(ae_widths),
        block_out_channels=ae_widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
    )
    levels = len(widths)
    unet = UNet2DConditionModel(
        sample_size=latent,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=text_dim,
        attention_head_dim=32,
        norm_num_groups=16,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_dim,
            intermediate_size=2 * text_dim,
            projection_dim=text_dim,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DPMSolverMultistepScheduler(
        # beta_end above Stable Diffusion's 0.012: at 16x16 latents the last step must leave no trace of the
        # mean colour, or samples could not choose their own skin tone.
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _dihedral(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    turns, flip = int(torch.randint(4, (1,), generator=generator)), bool(torch.randint(2, (1,), generator=generator))
    batch = torch.rot90(batch, turns, (2, 3))
    return batch.flip(3) if flip else batch


def _schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup: int = 50, part: tuple[float, float] = (0.0, 1.0)
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then the `part` (start, end in 0..1) of a cosine down to 2% of the learning rate."""
    start, end = part

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * (start + (end - start) * min(step / steps, 1.0)))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train_autoencoder(vae: Any, images: NDArray[np.uint8], *, steps: int, batch: int, lr: float, seed: int, kl: float = 2e-7) -> list[float]:
    """Train `vae` in place on (N, H, W, 3) uint8 `images`; returns the training PSNR (dB) every 50 steps.

    Loss: squared error and absolute error of pixels and of their gradients, and a small KL term. `scale_latents`
    must follow.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    vae.train().requires_grad_(True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, weight_decay=1e-4, betas=(0.9, 0.99))
    schedule = _schedule(optimizer, steps)
    curve: list[float] = []
    errors: list[float] = []
    side = images.shape[1]
    for step in progress(range(steps), "autoencoder", "step"):
        rows = torch.randint(len(images), (batch,), generator=generator).numpy()
        # Crops of half the side for the first 80%: the network is convolutional, so they teach the same at a
        # quarter of the cost; whole images at the end give the group normalisation its final statistics.
        crop = side // 2 if step < 0.8 * steps else side
        top, left = torch.randint(side - crop + 1, (2,), generator=generator).tolist()
        x = to_tensor(images[rows, top : top + crop, left : left + crop])
        x = _dihedral(x, generator).contiguous(memory_format=torch.channels_last).to(vae.device)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + 0.02 * torch.randn(posterior.mean.shape, generator=generator).to(x)).sample
        edges = (x.diff(dim=2) - y.diff(dim=2)).abs().mean() + (x.diff(dim=3) - y.diff(dim=3)).abs().mean()
        error = F.mse_loss(y, x)
        loss = error + 0.1 * F.l1_loss(y, x) + 0.05 * edges + kl * posterior.kl().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        errors.append(error.item() / 4)
        if (step + 1) % 50 == 0:
            curve.append(float(-10 * np.log10(np.mean(errors[-50:]))))
            if (step + 1) % 250 == 0:
                print(f" step {step + 1}: {curve[-1]:.2f} dB", flush=True)
    vae.eval().requires_grad_(False)
    return curve


def scale_latents(vae: Any, images: NDArray[np.uint8]) -> None:
    """Set `vae.config.scaling_factor` so that the latents of `images` have unit standard deviation."""
    vae.register_to_config(scaling_factor=1.0)
    vae.register_to_config(scaling_factor=float(1 / encode(vae, images).std()))


@torch.no_grad()
def level_latents(vae: Any, images: NDArray[np.uint8]) -> None:
    """Change the basis of the latents of `vae`, in its two 1x1 convolutions, so that no channel drowns another; then `scale_latents`.

    With mean m and covariance C over positions of `images`, latents z become C^(-1/4) (z - m): half-way to whitening. What is decoded stays the
    same. One direction, the colour, held three quarters of the variance; a diffusion settles a direction when the noise has come
    down to its size, so that the structures were all decided in the last step or two of a sampler.
    """
    vae.register_to_config(scaling_factor=1.0)
    latents = encode(vae, images).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean, size = latents.mean(0), latents.shape[1]
    values, vectors = torch.linalg.eigh(torch.cov(latents.T))
    forward, back = (vectors @ torch.diag(values**power) @ vectors.T for power in (-0.25, 0.25))
    into, out = vae.quant_conv, vae.post_quant_conv
    weight, bias = into.weight.double().flatten(1), into.bias.double()
    into.weight[:size] = (forward @ weight[:size])[..., None, None].to(into.weight)
    into.bias[:size] = (forward @ (bias[:size] - mean)).to(into.bias)
    weight = out.weight.double().flatten(1)
    out.bias += (weight @ mean).to(out.bias)
    out.weight[:] = (weight @ back)[..., None, None].to(out.weight)
    scale_latents(vae, images)


@torch.no_grad()
def encode(vae: Any, images: NDArray[np.uint8], batch: int = 64) -> torch.Tensor:
    """Scaled latent means (N, C, h, w) of (N, H, W, 3) uint8 images."""
    parts = [vae.encode(to_tensor(images[i : i + batch]).to(vae.device, vae.dtype)).latent_dist.mean.float() for i in range(0, len(images), batch)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def reconstruct(vae: Any, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.uint8]:
    """`images` (N, H, W, 3) uint8 through the autoencoder and back."""
    parts = []
    for i in range(0, len(images), batch):
        x = to_tensor(images[i : i + batch]).to(vae.device, vae.dtype)
        parts.append(vae.decode(vae.encode(x).latent_dist.mean).sample.float().cpu())
    return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image pair, in dB: 10 log10(255^2 / MSE). Shapes (N, H, W, 3)."""
    mse = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).reshape(len(a), -1).mean(1)
    return np.asarray(10 * np.log10(255**2 / np.maximum(mse, 1e-9)))


def denoising_errors(
    unet: Any, latents: torch.Tensor, context: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, scheduler: Any, gamma: float = 5.0
) -> torch.Tensor:
    """Squared error of the UNet's prediction per image (B,), under min-SNR-gamma weights (Hang et al. 2023, arXiv:2303.09556).

    latents (B, C, h, w), context (B, L, D), t (B,); targets are the noise or, for `v_prediction`, the velocity.
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    ddpm = DDPMScheduler(**{key: scheduler.config[key] for key in known})
    velocity = ddpm.config.prediction_type == "v_prediction"
    target = ddpm.get_velocity(latents, eps, t) if velocity else eps
    error = (unet(ddpm.add_noise(latents, eps, t), t, context).sample.float() - target.float()) ** 2
    snr = compute_snr(ddpm, t)
    return error.mean((1, 2, 3)) * snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def denoising_loss(
    unet: Any, latents: torch.Tensor, context: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, scheduler: Any, gamma: float = 5.0
) -> torch.Tensor:
    """The mean of `denoising_errors` over the batch."""
    return denoising_errors(unet, latents, context, t, eps, scheduler, gamma).mean()


def embed(pipe: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (N, L, D) of `prompts`, with gradients."""
    ids = pipe.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    out: torch.Tensor = pipe.text_encoder(ids.to(pipe.text_encoder.device))[0]
    return out


class _Sum:
    """Sums of one tensor over `members` forked processes; every process gets the same bytes."""

    def __init__(self, members: int, numbers: int) -> None:
        self.parts = torch.zeros(members, numbers).share_memory_()
        # Forked, so that it needs no name in the file system; a lost process ends the others through `parallel.each`.
        self.barrier = multiprocessing.get_context("fork").Barrier(members)

    def __call__(self, member: int, own: torch.Tensor) -> torch.Tensor:
        self.parts[member] = own
        self.barrier.wait()
        total = self.parts.sum(0)
        self.barrier.wait()  # nobody writes before all have read
        return total


def train_denoiser(
    pipe: Any,
    latents: torch.Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    ema: float = 0.998,
    drop: float = 0.1,
    part: tuple[float, float] = (0.0, 1.0),
) -> list[float]:
    """Train UNet and text encoder together on latents (N, C, h, w); both end as their moving averages. Returns the loss every 50 steps.

    `drop` of the prompts are emptied, for classifier-free guidance. `part` is the part of the learning rate's cosine that these steps run
    through. On a CPU two processes of one thread each take half of every batch, as small networks use the cores better so (`stages.runtime.parallel`).
    """
    from diffusers.training_utils import EMAModel

    modules = torch.nn.ModuleList([pipe.unet, pipe.text_encoder]).train().requires_grad_(True)
    pipe.unet.to(memory_format=torch.channels_last)
    weights = list(modules.parameters())
    members = 1 if torch.cuda.is_available() else 2
    shared = _Sum(members, sum(w.numel() for w in weights) + 1)

    def learn(member: int, tick: Callable[[int], object]) -> tuple[list[float], list[NDArray[np.float32]]]:
        generator = torch.Generator().manual_seed(seed)  # every member draws the whole batch and takes its share
        average = EMAModel(weights, decay=ema)
        optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
        schedule = _schedule(optimizer, steps, part=part)
        losses: list[float] = []
        own = slice(member, None, members)
        for _ in range(steps):
            rows = torch.randint(len(latents), (batch,), generator=generator)
            empty = torch.rand(batch, generator=generator) < drop
            t = torch.randint(pipe.scheduler.config.num_train_timesteps, (batch,), generator=generator)
            eps = torch.randn((batch, *latents.shape[1:]), generator=generator)
            context = embed(pipe, ["" if e else prompts[r] for r, e in zip(rows[own].tolist(), empty[own].tolist(), strict=True)])
            x, noise = (v[own].to(pipe.unet.device).contiguous(memory_format=torch.channels_last) for v in (latents[rows], eps))
            loss = denoising_errors(pipe.unet, x, context, t[own].to(x.device), noise, pipe.scheduler).sum() / batch
            loss.backward()
            if members > 1:
                total = shared(member, torch.cat([*(w.grad.flatten() for w in weights), loss.detach()[None]]))
                for w, g in zip(weights, total.split([*(w.numel() for w in weights), 1]), strict=False):
                    w.grad.copy_(g.view_as(w))  # into the weight's own memory layout, which the fused optimizer takes for granted
                loss = total[-1]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if not member:
                average.step(weights)
                tick(1)
            losses.append(loss.item())
        average.copy_to(weights)
        curve = [float(np.mean(losses[k : k + 50])) for k in range(0, steps - 49, 50)]
        return curve, [] if member else [w.detach().cpu().numpy() for w in weights]

    curve, learnt = each(learn, range(members), members, "UNet and text encoder", "step", steps)[0]
    with torch.no_grad():
        for w, value in zip(weights, learnt, strict=True):
            w.copy_(torch.from_numpy(value))
    modules.eval().requires_grad_(False)
    return curve
