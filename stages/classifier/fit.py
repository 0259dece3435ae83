"""The one training loop of every classifier: judge, regimes and backbone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stages.classifier.augment import augment, rand_augment
from stages.classifier.backbone import device, normalise, train_mode
from stages.runtime.params import Augment


@dataclass(frozen=True)
class Recipe:
    """What a training run is given. `class_weights` (C,) or None; `focal_gamma` 0 is cross-entropy; `first` is the share of the steps in phase 1."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    augment: Augment
    seed: int
    focal_gamma: float = 0.0
    class_weights: tuple[float, ...] | None = None
    randaugment: bool = False
    checkpoints: int = 1
    first: float = 1.0


def focal_loss(logits: torch.Tensor, labels: torch.Tensor, gamma: float, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Focal loss (Lin et al. 2017): mean over the batch of -w (1 - p_y)^gamma log p_y, divided by the mean weight; gamma 0 is cross-entropy.

    `logits` (B, C), `labels` (B,), `weights` w (B,) or None for equal ones.
    """
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    loss = -((1 - log_p.exp()) ** gamma) * log_p if gamma else -log_p
    if weights is None:
        return loss.mean()
    return (weights * loss).sum() / weights.sum()


def class_weights(labels: NDArray[np.int64], classes: int, power: float) -> tuple[float, ...] | None:
    """Weights (n / (C n_c))^power per class, from the counts in `labels`; None when power is 0."""
    if not power:
        return None
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return tuple(float(v) for v in (len(labels) / (classes * counts)) ** power)


def batches(n: int, steps: int, batch: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Row numbers of each step's batch: shuffled epochs, one after the other."""
    rows = torch.cat([torch.randperm(n, generator=generator) for _ in range(math.ceil(steps * batch / n))])
    return list(rows[: steps * batch].split(batch))


def course(phases: NDArray[np.int64], recipe: Recipe, generator: torch.Generator) -> list[torch.Tensor]:
    """Row numbers of each step's batch: the rows of phase 1 for the share `recipe.first` of the steps, then those of phase 2.

    `phases` (N,) holds 1 or 2. Steps of both phases sum to `recipe.steps`.
    """
    early = round(recipe.steps * recipe.first)
    planned = []
    for phase, steps in ((1, early), (2, recipe.steps - early)):
        if steps:
            rows = torch.from_numpy(np.flatnonzero(phases == phase))
            planned += [rows[chosen] for chosen in batches(len(rows), steps, recipe.batch, generator)]
    return planned


def fit(
    model: torch.nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    recipe: Recipe,
    *,
    weights: NDArray[np.float64] | None = None,
    phases: NDArray[np.int64] | None = None,
    score: Callable[[torch.nn.Module], float] | None = None,
    tick: Callable[[], object] | None = None,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> int:
    """Train what is not frozen of `model` in place on (N, H, W, 3) uint8 `images` and (N,) `labels` and leave it in evaluation mode.

    `loss(outputs, targets)` takes the place of the weighted focal loss; `labels` may then be targets of any shape (N, ...).
    `weights` (N,) are loss weights over zero, on top of `recipe.class_weights`; `phases` (N,) says in which part of the run a row is shown (`course`).
    With `score` (higher is better, computed on val) the best of `recipe.checkpoints` evenly spaced checkpoints is
    kept, the last one on ties; returns its step. AdamW, one-cycle learning rate (15% warm-up, cosine down).
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)  # dropout
    place = device()
    train_mode(model.to(place, memory_format=torch.channels_last))
    pixels, targets = torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels)
    by_row = None if recipe.class_weights is None else torch.tensor(recipe.class_weights)[targets]
    if weights is not None:
        own = torch.tensor(weights, dtype=torch.float32)
        by_row = own if by_row is None else by_row * own
    planned = course(np.ones(len(labels), np.int64) if phases is None else phases, recipe, generator)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps + 1, pct_start=0.15)
    marks = {round(recipe.steps * (k + 1) / recipe.checkpoints) for k in range(recipe.checkpoints)}
    best, best_step, kept = -math.inf, recipe.steps, None
    for step, rows in enumerate(planned, start=1):
        x = pixels[rows]
        if recipe.randaugment:
            x = rand_augment(x, generator)
        x = augment(x.float().div(255), recipe.augment, generator)
        out, y = model(normalise(x.to(place))), targets[rows].to(place)
        w = None if by_row is None else by_row[rows].to(place)
        (loss(out, y) if loss else focal_loss(out, y, recipe.focal_gamma, w)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if score is not None and step in marks:
            value = score(model)
            train_mode(model)
            if value >= best:
                best, best_step, kept = value, step, copy.deepcopy(model.state_dict())
        if tick is not None:
            tick()
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    return best_step
