"""The judge that filters synthetic images: one model a fold, none of which has seen that fold's lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from stages.classifier import backbone
from stages.classifier.predictor import read_weights
from stages.dataset.groups import read_seen, refuse_overlap
from stages.runtime.files import read_json


class Judge:
    """Model `f` was trained on every train fold but `f`. `accept` is the least probability of the wanted class."""

    def __init__(self, classes: list[str], accept: float, models: list[torch.nn.Module]) -> None:
        self.classes, self.accept, self._models = classes, accept, models

    def probabilities(self, images: NDArray[np.uint8], exclude_fold: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Probabilities (N, C) of (N, H, W, 3) uint8 images.

        An image made from a lesion of fold f (`exclude_fold[i] == f`) is judged by model f alone, which never saw that
        lesion; one made from text (-1, or no array) by the mean of all models.
        """
        each = np.stack([softmax(backbone.logits(m, images).astype(np.float64), axis=-1) for m in self._models])
        pooled = np.asarray(each.mean(0))
        if exclude_fold is None:
            return pooled
        own = each[np.maximum(exclude_fold, 0), np.arange(len(images))]
        return np.where((exclude_fold >= 0)[:, None], own, pooled)


def load_judge(folder: str | Path, split: pd.DataFrame | None = None) -> Judge:
    """The judge in `folder` (judge.json), its weights checked, and its groups against the sealed parts of `split`."""
    folder = Path(folder)
    info = read_json(folder / "judge.json")
    if split is not None:
        refuse_overlap(read_seen(folder), split, f"judge {folder}")
    models = read_weights(folder, info["weights"], info["backbone"], len(info["classes"]))
    return Judge(info["classes"], info["accept"], [models[k] for k in sorted(models, key=int)])
