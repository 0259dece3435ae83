"""Encoders that images are compared in: the base's backbone, a fixed random network, and well-known ones whose weights are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray
from timm.data import resolve_model_data_config

from stages.classifier import backbone
from stages.classifier.start import body

Encoder = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
SHIPPED, RANDOM = "backbone of the base", "random network"
RANDOM_NETWORK, RANDOM_SEED = "test_resnet", 20180601
#: timm's names of the encoders that the field reports, by what it calls them.
KNOWN: Mapping[str, str] = {"Inception v3": "inception_v3.tv_in1k", "DINOv2 small": "vit_small_patch14_dinov2.lvd142m"}
NOT_AT_HAND = "weights not at hand"


def cached(name: str) -> Path | None:
    """The safetensors of timm's `name` in the cache of this machine; never a download."""
    found = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
    return Path(found) if isinstance(found, str) else None


@torch.no_grad()
def known_features(name: str, weights: Path, images: NDArray[np.uint8], batch: int = 16) -> NDArray[np.float64]:
    """Features (N, D) of (N, H, W, 3) uint8 `images` by timm's `name` with its own `weights`, at the size and scale it was trained on."""
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, num_classes=0).eval().to(backbone.device())
    config = resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1).to(backbone.device()) for key in ("mean", "std"))
    parts = []
    for i in range(0, len(images), batch):
        x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().div(255).to(backbone.device())
        x = torch.nn.functional.interpolate(x, config["input_size"][1:], mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(model((x - mean) / std).double().cpu())
    return torch.cat(parts).numpy()


def at_hand(base_dir: Path) -> tuple[dict[str, Encoder], list[str]]:
    """Encoders by name, the one for the search of copies first, and the names of those whose weights are not at hand.

    The first is the backbone of the base in `base_dir` (models/<name>/base) where it has one. The random network has fixed weights that no
    training touched, so nothing was ever tuned to please it.
    """
    found: dict[str, Encoder] = {}
    folder = body(base_dir)
    if folder is not None:
        found[SHIPPED] = partial(backbone.features, folder)
    found[RANDOM] = partial(backbone.embed, backbone.build(RANDOM_NETWORK, 1, seed=RANDOM_SEED))
    missing = []
    for title, name in KNOWN.items():
        weights = cached(name)
        if weights is None:
            missing.append(title)
        else:
            found[title] = partial(known_features, name, weights)
    return found, missing
