"""Augmentation of a batch: flips, rotation, zoom and colour in one resampling, RandAugment by torchvision."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from stages.classifier.backbone import MEAN
from stages.runtime.params import Augment


def augment(images: torch.Tensor, how: Augment, generator: torch.Generator) -> torch.Tensor:
    """Augmented copy of (N, 3, H, W) float images in 0..1; each image by its own random numbers from `generator`.

    Rotation up to +-`rotation` degrees, zoom by up to +-`zoom`, brightness, contrast and saturation by up to
    +-`colour`. Corners are filled by reflection, so that no black border is learned.
    """
    n = len(images)
    u = torch.rand((7, n), generator=generator) * 2 - 1
    angle, scale = u[0] * math.radians(how.rotation), 1 + u[1] * how.zoom
    flip = torch.where(u[2] > 0, 1.0, -1.0) if how.flips else torch.ones(n)
    upright = torch.where(u[3] > 0, 1.0, -1.0) if how.flips else torch.ones(n)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([torch.stack([cos * flip, -sin * upright], 1), torch.stack([sin * flip, cos * upright], 1)], 1)
    theta = torch.cat([rows, torch.zeros(n, 2, 1)], 2).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    out = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation = (1 + how.colour * u[4:]).to(images).view(3, n, 1, 1, 1)
    out = out * brightness
    out = (out - out.mean((1, 2, 3), keepdim=True)) * contrast + out.mean((1, 2, 3), keepdim=True)
    out = (out - out.mean(1, keepdim=True)) * saturation + out.mean(1, keepdim=True)
    return out.clamp(0, 1)


def rand_augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """RandAugment (Cubuk et al. 2020, two operations of magnitude 9) of (N, 3, H, W) uint8 images."""
    from torchvision.transforms import v2

    transform = v2.RandAugment(num_ops=2, magnitude=9, fill=[round(255 * m) for m in MEAN])  # black corners would be a sign of it
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in images])
