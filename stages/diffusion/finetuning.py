"""Learning a disease from a few images: first its token (textual inversion), then a LoRA, by the held-out denoising loss.

The randomness of a step hangs on (seed, phase, step) alone, so that a run that was interrupted goes on to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stages.diffusion.adapter import add_lora, context
from stages.diffusion.pretraining import denoising_loss, encode
from stages.imaging.dihedral import dihedral
from stages.runtime.determinism import seed_of
from stages.runtime.errors import UserError
from stages.runtime.params import LoraTrain
from stages.runtime.progress import progress

WARM_UP = 10  # steps; after them the rate is constant, so that any checkpoint may be the one that is kept
TIMES = 4  # noise levels per held-out image; more images tell more than more levels


@dataclass(frozen=True)
class Material:
    """Images to learn from: `latents` (V, N, C, h, w) of N images in V variants, `prompts` that describe each image."""

    latents: torch.Tensor
    prompts: list[list[str]]


@dataclass(frozen=True)
class Probe:
    """A fixed denoising task: latents, noise (B, C, h, w), steps (B,) and contexts (B, L, D), the same at every checkpoint."""

    latents: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    contexts: torch.Tensor


def material(pipe: Any, images: NDArray[np.uint8], prompts: Sequence[list[str]]) -> Material:
    """Encode (N, S, S, 3) uint8 images once, in all eight turns and mirrorings."""
    variants = [encode(pipe.vae, np.ascontiguousarray(v), batch=16) for v in dihedral(images)]
    return Material(torch.stack(variants), [list(p) for p in prompts])


@contextmanager
def _mixed(where: torch.device) -> Iterator[None]:
    """bfloat16 arithmetic on CUDA around float32 trainable weights; plain float32 on the CPU."""
    with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
        yield


@dataclass(frozen=True)
class _Draw:
    """One step's random choices among the images of a `Material`."""

    latents: torch.Tensor
    prompts: list[str]
    empty: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor


def _draw(pipe: Any, data: Material, batch: int, drop: float, *key: object) -> _Draw:
    generator = torch.Generator().manual_seed(seed_of(*key))
    variants, count = data.latents.shape[:2]
    rows = torch.randint(count, (batch,), generator=generator)
    latents = data.latents[torch.randint(variants, (batch,), generator=generator), rows]
    choice = torch.rand(batch, generator=generator)
    prompts = [data.prompts[r][int(c * len(data.prompts[r]))] for r, c in zip(rows.tolist(), choice.tolist(), strict=True)]
    empty = torch.rand(batch, generator=generator) < drop
    t = torch.randint(pipe.scheduler.config.num_train_timesteps, (batch,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    return _Draw(latents.contiguous(memory_format=torch.channels_last), prompts, empty, t.to(latents.device), noise.to(latents.device))


def _warm(optimizer: torch.optim.Optimizer, rate: float, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)


def learn_token(pipe: Any, ids: Sequence[int], data: Material, p: LoraTrain, state_file: Path) -> torch.Tensor:
    """Textual inversion (Gal et al. 2022, arXiv:2208.01618): train the vectors of the token `ids`, nothing else.

    The text encoder and the UNet pass gradients on but stay as they are. Writes the vectors (n, D) into the text
    encoder and returns them. `state_file` keeps them once they are learned.
    """
    table = pipe.text_encoder.get_input_embeddings()
    first = min(ids)
    rows = torch.nn.Parameter(table.weight[list(ids)].detach().float().clone())

    def replace(_: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        new = args[0] >= first
        return torch.where(new[..., None], F.embedding((args[0] - first).clamp(0, len(rows) - 1), rows).to(out.dtype), out)

    done = state_file.exists()
    if done:
        rows.data = load_file(state_file)["rows"].to(rows.device)
    hook = table.register_forward_hook(replace)
    optimizer = torch.optim.AdamW([rows], lr=p.token_lr, weight_decay=0.0)
    for step in progress(range(0 if done else p.token_steps), "token", "step"):
        drawn = _draw(pipe, data, p.batch, 0.0, "token", p.seed, step)
        with _mixed(rows.device):
            words = context(pipe, drawn.prompts)
            loss = denoising_loss(pipe.unet, drawn.latents, words, drawn.t, drawn.noise, pipe.scheduler, p.min_snr_gamma)
        loss.backward()
        _warm(optimizer, p.token_lr, step)
        optimizer.step()
        optimizer.zero_grad()
    hook.remove()
    if not torch.isfinite(rows).all():
        raise UserError("the token's training diverged: lower lora_train.token_lr")
    _keep({"rows": rows}, state_file)
    with torch.no_grad():
        table.weight[list(ids)] = rows.to(table.weight.dtype)
    return rows.detach()


def probe(pipe: Any, data: Material, count: int, seed: int) -> Probe:
    """A fixed denoising task on the first `count` images as they are, each at `TIMES` evenly spaced noise levels."""
    chosen = data.latents[0, :count]
    latents = chosen.repeat_interleave(TIMES, 0).contiguous(memory_format=torch.channels_last)
    steps = pipe.scheduler.config.num_train_timesteps
    levels = ((torch.arange(TIMES) + 0.5) * steps / TIMES).long().repeat(len(chosen))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed_of("probe", seed)))
    with torch.no_grad():
        contexts = context(pipe, [prompts[0] for prompts in data.prompts[:count]]).repeat_interleave(TIMES, 0)
    return Probe(latents, noise.to(latents.device), levels.to(latents.device), contexts)


@torch.no_grad()
def probe_loss(pipe: Any, task: Probe, gamma: float, batch: int = 16) -> float:
    """The mean min-SNR weighted denoising loss on `task`."""
    total = 0.0
    for i in range(0, len(task.t), batch):
        part = slice(i, i + batch)
        with _mixed(task.latents.device):
            loss = denoising_loss(pipe.unet, task.latents[part], task.contexts[part], task.t[part], task.noise[part], pipe.scheduler, gamma)
        total += loss.item() * len(task.t[part])
    return total / len(task.t)


def _keep(tensors: dict[str, torch.Tensor], path: Path, notes: dict[str, str] | None = None) -> None:
    """Write `tensors` to `path` so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, notes)
    partial.replace(path)


class _State:
    """Where a run stands, kept in a file: weights, their average, the best average so far, Adam's moments, the curve."""

    def __init__(self, path: Path, params: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.path, self.params, self.optimizer = path, params, optimizer
        self.average = [p.detach().clone() for p in params]
        self.best = [p.detach().clone() for p in params]
        self.step = 0
        self.curve: list[dict[str, float]] = []

    def save(self) -> None:
        tensors = {f"{kind}.{i}": v for kind in ("params", "average", "best") for i, v in enumerate(getattr(self, kind))}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in moments.items()}
        _keep(tensors, self.path, {"step": str(self.step), "curve": json.dumps(self.curve)})

    @torch.no_grad()
    def load(self) -> None:
        """Take up the run that `path` holds, if there is one."""
        if not self.path.exists():
            return
        with safe_open(self.path, "pt") as file:
            for kind in ("params", "average", "best"):
                for i, value in enumerate(getattr(self, kind)):
                    value.copy_(file.get_tensor(f"{kind}.{i}"))
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                if key.startswith("adam."):
                    _, i, name = key.split(".")
                    moments.setdefault(int(i), {})[name] = file.get_tensor(key)
            notes = file.metadata()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.step, self.curve = int(notes["step"]), json.loads(notes["curve"])


@contextmanager
def _weights(params: list[torch.nn.Parameter], values: list[torch.Tensor]) -> Iterator[None]:
    """`params` hold `values` inside, their own again after."""
    own = [p.detach().clone() for p in params]
    with torch.no_grad():
        for parameter, value in zip(params, values, strict=True):
            parameter.copy_(value)
        yield
        for parameter, value in zip(params, own, strict=True):
            parameter.copy_(value)


def train_lora(pipe: Any, data: Material, held_out: Probe, train: Probe, p: LoraTrain, state_file: Path) -> tuple[int, list[dict[str, float]]]:
    """Train a LoRA on `pipe.unet` (left on it, at the chosen checkpoint); the moving average with the least held-out loss is kept.

    Returns the step of that checkpoint and, per checkpoint, {step, held_out, train, gap}: the losses and held_out - train.

    min-SNR weighting; `prompt_drop` of the prompts are emptied for classifier-free guidance. The loss on `train`, the same
    task on training images, shows when it starts to memorise. `state_file` is where an interrupted run is taken up again.
    """
    every = sorted({prompt for prompts in data.prompts for prompt in prompts})
    with torch.no_grad():  # the text encoder is frozen by now: every prompt is encoded once
        encoded = torch.cat([context(pipe, ["", *every][i : i + 64]) for i in range(0, len(every) + 1, 64)])
    row = {prompt: i + 1 for i, prompt in enumerate(every)}

    def losses(step: int) -> dict[str, float]:
        value = {"held_out": probe_loss(pipe, held_out, p.min_snr_gamma), "train": probe_loss(pipe, train, p.min_snr_gamma)}
        if not all(np.isfinite(v) for v in value.values()):
            raise UserError(f"the LoRA's training diverged before step {step}: lower lora_train.lr")
        return {"step": step, **value, "gap": value["held_out"] - value["train"]}

    before = losses(0)
    params = add_lora(pipe.unet, p.rank, p.alpha, p.targets, p.seed)
    optimizer = torch.optim.AdamW(params, lr=p.lr, weight_decay=0.01, betas=(0.9, 0.99))
    state = _State(state_file, params, optimizer)
    state.curve.append(before)
    state.load()
    marks = {round(p.steps * (k + 1) / p.checkpoints) for k in range(p.checkpoints)}
    for step in progress(range(state.step, p.steps), "LoRA", "step"):
        drawn = _draw(pipe, data, p.batch, p.prompt_drop, "lora", p.seed, step)
        words = encoded[[0 if e else row[q] for q, e in zip(drawn.prompts, drawn.empty.tolist(), strict=True)]]
        with _mixed(drawn.latents.device):
            loss = denoising_loss(pipe.unet, drawn.latents, words, drawn.t, drawn.noise, pipe.scheduler, p.min_snr_gamma)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        _warm(optimizer, p.lr, step)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(p.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, live in zip(state.average, params, strict=True):
                kept.lerp_(live, 1 - decay)
        state.step = step + 1
        if state.step in marks:
            with _weights(params, state.average):
                point = losses(state.step)
            if len(state.curve) == 1 or point["held_out"] < min(c["held_out"] for c in state.curve[1:]):
                state.best = [v.clone() for v in state.average]
            state.curve.append(point)
            state.save()
    best = min(state.curve[1:], key=lambda c: (c["held_out"], c["step"]))
    with torch.no_grad():
        for parameter, value in zip(params, state.best, strict=True):
            parameter.copy_(value)
    return int(best["step"]), state.curve
