"""Where the model looked, and which training images look alike to it. Neither proves that it looked for the right reason."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from app.artifacts import Place
from stages.classifier import backbone
from stages.classifier.predictor import Predictor
from stages.dataset.groups import read_split
from stages.dataset.table import decode, read_table

WARM = np.array([[0, 0, 0], [255, 96, 0]], np.float64)  # of nothing and of everything: one hue, so that no colour has a meaning of its own


def heat(networks: Sequence[torch.nn.Module], image: NDArray[np.uint8], number: int) -> NDArray[np.float32]:
    """LayerCAM (Jiang et al. 2021) at stride 8 for class `number` of an image (H, W, 3): (H, W) in 0..1, the mean over `networks`.

    The networks must be copies of one's own (`Predictor.copies`): hooks and gradients are hung on them.
    """
    pixels = backbone.normalise(torch.from_numpy(image[None]).permute(0, 3, 1, 2).float().div(255).to(backbone.device()))
    maps = []
    for network in networks:
        layer = network.to(backbone.device()).get_submodule(network.feature_info[backbone.stride8(network)]["module"])
        with LayerCAM(model=network.eval(), target_layers=[layer]) as cam:
            maps.append(cam(input_tensor=pixels, targets=[ClassifierOutputTarget(number)])[0])
    return np.asarray(np.mean(maps, axis=0), np.float32)


def overlay(picture: NDArray[np.uint8], warmth: NDArray[np.float32], strength: float) -> NDArray[np.uint8]:
    """`picture` (H, W, 3) under the map `warmth` (h, w), which is laid over it with `strength` 0..1."""
    size = picture.shape[1], picture.shape[0]
    weight = np.asarray(Image.fromarray(warmth).resize(size, Image.Resampling.BILINEAR))[..., None] * strength
    return np.asarray(np.round(picture * (1 - weight) + WARM[1] * weight), np.uint8)


class Alike(NamedTuple):
    """A training image: its pixels (H, W, 3), class and cosine similarity (-1..1) to the one asked about."""

    picture: NDArray[np.uint8]
    label: str
    similarity: float


class Explainer:
    """Own copies of a predictor's networks, used by one at a time, and the training images as the first of them sees them."""

    def __init__(self, predictor: Predictor, place: Place) -> None:
        self._networks, self._size, self._mutex, self._place = predictor.copies(), predictor.size, Lock(), place
        self._known: tuple[NDArray[np.uint8], list[str], list[str], NDArray[np.float64]] | None = None

    def heat(self, image: NDArray[np.uint8], number: int) -> NDArray[np.float32]:
        """`heat` of the ensemble."""
        with self._mutex:
            return heat(self._networks, image, number)

    def alike(self, image: NDArray[np.uint8], count: int) -> list[Alike]:
        """The `count` most similar real training images of different lesions, the most similar first."""
        with self._mutex:
            self._known = self._known or self._read()
            images, labels, groups, known = self._known
            own = _unit(backbone.embed(self._networks[0], image[None]))[0]
        found: dict[str, Alike] = {}
        for k in np.argsort(-(known @ own), kind="stable"):
            found.setdefault(groups[k], Alike(images[k], labels[k], float(known[k] @ own)))
            if len(found) == count:
                break
        return list(found.values())

    def _read(self) -> tuple[NDArray[np.uint8], list[str], list[str], NDArray[np.float64]]:
        split = read_split(self._place.split)
        train = split[split["split"] == "train"]
        images = decode(read_table(self._place.refined, ["id", "image"]).set_index("id")["image"].loc[train["id"]], self._size)
        return images, train["label"].tolist(), train["group"].astype(str).tolist(), _unit(backbone.embed(self._networks[0], images))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
