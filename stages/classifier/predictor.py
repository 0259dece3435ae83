"""A tracked model folder, loaded and checked: weights per seed, temperatures, class bias, thresholds, conformal quantiles, known images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import softmax

from stages.classifier import backbone, ood
from stages.classifier.calibration import calibrated
from stages.dataset.groups import read_seen, refuse_overlap
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, sha256

ABSENT = "absent.json"  # in place of a model that is left out


def read_weights(folder: Path, weights: dict[str, dict[str, str]], name: str, classes: int) -> dict[str, torch.nn.Module]:
    """Every weight file of `folder` named in `weights` (key: {file, sha256}); `LawError` when one was changed."""
    models = {}
    for key, entry in weights.items():
        path = folder / entry["file"]
        if not path.exists() or sha256(path) != entry["sha256"]:
            raise LawError(f"{path} is missing or was changed since it was trained; restore it with `dvc checkout` or rebuild it with `dvc repro`")
        models[key] = backbone.load(name, classes, path)
    return models


def tempered(logits: NDArray[np.floating[Any]], info: Mapping[str, Any], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Probabilities (S, N, C) of `logits` (S, N, C): one softmax(logits / temperature) per seed; `info` is model.json."""
    heat = np.array([info["temperature"][str(s)] for s in seeds])[:, None, None]
    return np.asarray(softmax(logits.astype(np.float64) / heat, axis=-1))


class Predictor:
    """The seed ensemble of one regime. `info` is its model.json, `known` by seed what `ood.learn` found."""

    def __init__(
        self, info: dict[str, Any], models: dict[str, torch.nn.Module], known: dict[int, dict[str, NDArray[np.float32]]] | None = None
    ) -> None:
        self.info, self._models, self._known = info, models, known
        self.classes: list[str] = info["classes"]
        self.seeds: list[int] = info["seeds"]
        self.size: int = info["transform"]["size"]

    def copies(self) -> list[torch.nn.Module]:
        """A copy of each of the ensemble's networks, for what hooks into them: the own ones are shared by all who ask."""
        return [copy.deepcopy(self._models[str(s)]) for s in self.seeds]

    def logits(self, images: NDArray[np.uint8], seeds: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Raw logits (S, N, C) of (N, H, W, 3) uint8 images, for `seeds` (default: the ensemble's)."""
        chosen = self.seeds if seeds is None else seeds
        return np.stack([backbone.logits(self._models[str(s)], images) for s in chosen])

    def members(self, images: NDArray[np.uint8], seeds: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Tempered probabilities (S, N, C), for `seeds` (default: the ensemble's)."""
        chosen = self.seeds if seeds is None else seeds
        return tempered(self.logits(images, chosen), self.info, chosen)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated probabilities (N, C) of the ensemble, the mean over its seeds."""
        return calibrated(self.members(images).mean(0), self.info)

    def refusals(self, images: NDArray[np.uint8]) -> list[str | None]:
        """Per image of (N, H, W, 3) uint8, why the model may not speak on it; None where it may, or where the model has no record to tell."""
        if self._known is None or not len(images):
            return [None] * len(images)
        found = [ood.distances(backbone.texture(self._models[str(s)], images), images, self._known[s]) for s in self.seeds]
        return ood.reasons(np.mean(found, axis=0), images, self.info["ood"], self.classes)


def read_known(folder: Path, info: Mapping[str, Any]) -> dict[int, dict[str, NDArray[np.float32]]]:
    """What `ood.learn` found, by seed or fold, of the models in `folder`, whose record is `info["ood"]`. `LawError` when it was changed."""
    path = folder / ood.FILE
    if not path.exists() or sha256(path) != info["ood"]["sha256"]:
        raise LawError(f"{path} is missing or was changed since the model was trained; restore it with `dvc checkout` or rebuild it with `dvc repro`")
    return ood.nested(load_file(path))


def why_absent(folder: Path) -> str | None:
    """Why stage `train` trained nothing in `folder`; None when it did."""
    return str(read_json(folder / ABSENT)["reason"]) if (folder / ABSENT).exists() else None


def load(folder: str | Path, split: pd.DataFrame | None = None) -> Predictor:
    """The model in `folder`, its weights checked against model.json and, given `split`, its groups against the sealed parts.

    Raises `UserError` when there is no model, `LawError` when it was tampered with or has seen a sealed group.
    """
    folder = Path(folder)
    if reason := why_absent(folder):
        raise UserError(f"{folder} holds no model: {reason}")
    if not (folder / "model.json").exists():
        raise UserError(f"{folder} holds no model.json: train it with `dvc repro` (or `make reproduce`)")
    info = read_json(folder / "model.json")
    if sha256(folder / "groups_seen.txt") != info["groups_sha256"]:
        raise LawError(f"{folder}/groups_seen.txt was changed since the model was trained")
    if split is not None:
        refuse_overlap(read_seen(folder), split, f"model {folder}")
    return Predictor(
        info, read_weights(folder, info["weights"], info["backbone"], len(info["classes"])), read_known(folder, info) if "ood" in info else None
    )
