"""Encoders that images are compared in: the base's backbone, a fixed random network, and well-known ones whose weights are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import resolve_model_data_config

from stages.classifier import backbone
from stages.classifier.start import body

Images = NDArray[np.uint8]
Encoder = Callable[[Images], NDArray[np.float64]]
SHIPPED, RANDOM = "backbone of the base", "random network"
RANDOM_NETWORK, RANDOM_SEED = "test_resnet", 20180601
FOLDER = Path("models/encoders")  # where `python -m stages.encoder` puts weights that came as a file
SQUEEZENET, INCEPTION, VGG = "squeezenet1_0", "inception_v3.tv_in1k", "vgg16.tv_in1k"
#: The encoders that the field reports, by what it calls them: timm's names, but for SqueezeNet, which torchvision alone has.
KNOWN: Mapping[str, str] = {"SqueezeNet": SQUEEZENET, "Inception v3": INCEPTION, "DINOv2 small": "vit_small_patch14_dinov2.lvd142m"}
INCEPTION_SCORE, LPIPS = "Inception score", "LPIPS"
#: Which network each of the published scores needs.
PUBLISHED: Mapping[str, str] = {INCEPTION_SCORE: INCEPTION, LPIPS: VGG}


def cached(name: str) -> Path | None:
    """The safetensors of `name` in `FOLDER` or in the cache of this machine; never a download."""
    own = FOLDER / f"{name}.safetensors"
    found = own if own.exists() else try_to_load_from_cache(f"timm/{name}", "model.safetensors")
    return Path(found) if isinstance(found, str | Path) else None


def _squeezenet(weights: Path) -> torch.nn.Module:
    from torchvision.models import squeezenet1_0  # here: only who has the weights waits for it

    model = squeezenet1_0()
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    model.classifier = torch.nn.AdaptiveAvgPool2d(1)  # its features, not what ImageNet calls them
    return model


def _scale(weights: Path, config: Mapping[str, Any]) -> list[torch.Tensor]:
    """Mean and standard deviation (3, 1, 1) of pixels in 0..1 that the network wants: the file's own, else those of `config`."""
    with safe_open(weights, "pt") as opened:
        said = opened.metadata() or {}
    values = [[float(v) for v in said[key].split()] if key in said else config[key] for key in ("mean", "std")]
    return [torch.tensor(each).view(3, 1, 1).to(backbone.device()) for each in values]


@torch.no_grad()
def known_outputs(name: str, weights: Path, head: bool, images: Images, batch: int = 16) -> NDArray[np.float64]:
    """What network `name` with `weights` says of (N, H, W, 3) uint8 `images`, (N, D), at the size and scale it was trained on.

    Its features, or with `head` (not SqueezeNet) its logits. Raises `RuntimeError` when the weights are of another network.
    """
    if name == SQUEEZENET:
        model, config = _squeezenet(weights), {"input_size": (3, 224, 224), "mean": backbone.MEAN, "std": backbone.STD}
    else:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, **({} if head else {"num_classes": 0}))
        config = resolve_model_data_config(model)
    model = model.eval().to(backbone.device())
    mean, std = _scale(weights, config)
    parts = []
    for i in range(0, len(images), batch):
        x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().div(255).to(backbone.device())
        x = torch.nn.functional.interpolate(x, config["input_size"][1:], mode="bicubic", antialias=True).clamp(0, 1)
        parts.append(model((x - mean) / std).flatten(1).double().cpu())
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
            found[title] = partial(known_outputs, name, weights, False)
    return found, missing


@torch.no_grad()
def lpips(weights: Path, a: Images, b: Images, batch: int = 16) -> NDArray[np.float64]:
    """Learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924; VGG, version 0.1) of each of `a` (N, H, W, 3) to its partner in `b`, (N,).

    `weights` are those of VGG-16 (timm's or torchvision's); how its layers are weighed comes with torchmetrics.
    """
    from torchmetrics.functional.image.lpips import _LPIPS  # the public function would fetch VGG from the network

    model = _LPIPS(pretrained=True, net="vgg", pnet_rand=True, eval_mode=True)
    state = load_file(weights)
    for name, parameter in model.net.named_parameters():  # slice2.5.weight: layer 5 of VGG's features
        _, layer, kind = name.split(".")
        parameter.copy_(state[f"features.{layer}.{kind}"])
    model = model.to(backbone.device())

    def scaled(images: Images) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(backbone.device())

    parts = [model(scaled(a[i : i + batch]), scaled(b[i : i + batch])).flatten().double().cpu() for i in range(0, len(a), batch)]
    return torch.cat(parts).numpy()
