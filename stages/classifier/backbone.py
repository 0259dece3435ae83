"""The timm backbone: built by name, started from the base's weights, from timm's pretrained ones, or from a saved model."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from timm.models import group_parameters
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
import numpy as np

from stages.classifier.start import WEIGHTS as WEIGHTS
from stages.runtime.errors import UserError
from stages.runtime.files import read_json

#: ImageNet's channel statistics (0..1 RGB), which most of timm's pretrained weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str, classes: int, start: Path | None = None, pretrained: bool = False, seed: int = 0, frozen_stages: int = 0) -> torch.nn.Module:
    """A timm model `name` with a fresh head of `classes` outputs drawn from `seed`.

    `start` is a folder with backbone.safetensors of the same architecture (its head is left out); without it,
    `pretrained` asks timm for its own weights. The first `frozen_stages` stages (`freeze`) keep these in training. Raises `UserError` when
    the name is unknown, the weights do not fit or cannot be had, or when stages are to be frozen that hold no learned weights.
    """
    if frozen_stages and start is None and not pretrained:
        raise UserError(
            f"frozen_stages is {frozen_stages}, but {name} starts from random weights: set frozen_stages: 0 or pretrained: true in params.yaml"
        )
    torch.manual_seed(seed)
    try:
        model = timm.create_model(name, pretrained=pretrained and start is None, num_classes=classes)
    except RuntimeError as error:
        if "Unknown model" in str(error) or "Invalid pretrained tag" in str(error):
            raise UserError(f"backbone {name!r} is not a timm model; see timm.list_models()") from None
        raise
    except Exception as error:  # the hub raises many kinds when there is no network
        raise UserError(
            f"pretrained weights of {name} cannot be had ({type(error).__name__}): connect once so that they are cached, "
            "name the backbone of models/base (test_resnet), or set pretrained: false"
        ) from None
    if start is not None:
        state = load_file(start / WEIGHTS)
        head = {k for k in model.state_dict() if k.startswith(f"{model.default_cfg['classifier']}.")}
        missing, unexpected = model.load_state_dict({k: v.float() for k, v in state.items() if k not in head}, strict=False)
        if set(missing) != head or unexpected:
            raise UserError(f"{start / WEIGHTS} does not fit {name}: missing {sorted(set(missing) - head)[:3]}, unexpected {unexpected[:3]}")
    return freeze(model, frozen_stages)


def freeze(model: torch.nn.Module, stages: int) -> torch.nn.Module:
    """`model` with the parameters of its first `stages` stages out of training: the stem is the first, then timm's own (`group_matcher`).

    Few images teach early layers nothing that the starting weights lack (Yosinski et al. 2014), and without their gradient a step takes half
    the time. Raises `UserError` when nothing but the head would be left. timm.utils.freeze is no help: it puts other normalisation layers in
    place, and weights saved from these fit no model of that name.
    """
    if stages:
        groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
        if stages >= max(groups):
            raise UserError(f"frozen_stages is {stages}, but the model has {max(groups)} stages before its head: at least one must be trained")
        fixed = {name for stage, names in groups.items() if stage < stages for name in names}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in fixed)
    return model


def train_mode(model: torch.nn.Module) -> torch.nn.Module:
    """`model` in training mode, but for the normalisation of frozen stages: their running statistics belong to their weights."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()
    return model


def save(model: torch.nn.Module, path: Path, half: bool = False) -> None:
    """Write the state dict to `path` as safetensors, floats in half precision on request."""
    state = {k: (v.half() if half and v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def load(name: str, classes: int, path: Path) -> torch.nn.Module:
    """The model saved at `path`, in evaluation mode and full precision."""
    model = timm.create_model(name, num_classes=classes)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return model.eval()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) in 0..1 to ImageNet's scale, channels last."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((images - mean.to(images)) / std.to(images)).contiguous(memory_format=torch.channels_last)


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def features(folder: Path, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float64]:
    """What the backbone in `folder` (backbone.json names it) sees in (N, H, W, 3) uint8 images: its last layer but one, (N, D)."""
    return embed(build(read_json(folder / "backbone.json")["name"], 1, folder), images, batch)


@torch.no_grad()
def embed(model: torch.nn.Module, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float64]:
    """The last layer but one of `model`, (N, D), for (N, H, W, 3) uint8 images."""
    model = model.eval().to(device(), memory_format=torch.channels_last)
    parts = []
    for i in range(0, len(images), batch):
        x = normalise(torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().div(255).to(device()))
        parts.append(model.forward_head(model.forward_features(x), pre_logits=True).double().cpu())  # type: ignore[operator]
    return torch.cat(parts).numpy()


def stride8(model: torch.nn.Module) -> int:
    """Which stage of a timm model (an index into its feature_info) has a map of 1/8 of the picture's side, or the nearest to it."""
    return min(range(len(model.feature_info)), key=lambda k: abs(model.feature_info[k]["reduction"] - 8))


@torch.no_grad()
def texture(model: torch.nn.Module, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float64]:
    """Mean and standard deviation of each channel over the map at stride 8 (`stride8`), (N, 2D), of (N, H, W, 3) uint8 images.

    So early a layer still sees what an image is made of; the last ones keep only what tells the classes apart.
    """
    model = model.eval().to(device(), memory_format=torch.channels_last)
    parts = []
    for i in range(0, len(images), batch):
        x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().div(255)
        (found,) = model.forward_intermediates(normalise(x.to(device())), indices=[stride8(model)], intermediates_only=True, stop_early=True)
        parts.append(torch.cat([found.mean((2, 3)), found.std((2, 3), correction=0)], 1).double().cpu())
    return torch.cat(parts).numpy()


@torch.no_grad()
def logits(model: torch.nn.Module, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """Logits (N, C) of (N, H, W, 3) uint8 images."""
    model = model.eval().to(device(), memory_format=torch.channels_last)
    parts = []
    for i in range(0, len(images), batch):
        x = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().div(255)
        parts.append(model(normalise(x.to(device()))).float().cpu())
    return torch.cat(parts).numpy() if parts else np.empty((0, 0), np.float32)
