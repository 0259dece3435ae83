"""The judge that filters synthetic images: one model a fold, none of which has seen that fold's lesions.

It says two things of an image: the probability of each class, and whether it lies among the real images of the class that it should show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from stages.classifier import backbone, ood
from stages.classifier.predictor import read_known, read_weights
from stages.dataset.groups import read_seen, refuse_overlap
from stages.runtime.files import read_json


class Judge:
    """Model `f` was trained on every train fold but `f`, and `known[f]` (`ood.learn`) are the looks of their images.

    `accept` is the least probability of the wanted class; `limits` (VIEWS, C) are how far real images of each class lie, out of fold;
    `colourless` says that its training images are shades of grey.
    """

    def __init__(
        self,
        classes: list[str],
        accept: float,
        models: Sequence[torch.nn.Module],
        known: Sequence[Mapping[str, NDArray[np.float32]]],
        limits: ood.Floats,
        colourless: bool,
    ) -> None:
        self.classes, self.accept, self.colourless = classes, accept, colourless
        self._models, self._known, self._limits = models, known, limits

    def probabilities(self, images: NDArray[np.uint8], exclude_fold: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Probabilities (N, C) of (N, H, W, 3) uint8 images.

        An image made from a lesion of fold f (`exclude_fold[i] == f`) is judged by model f alone, which never saw that
        lesion; one made from text (-1, or no array) by the mean of all models.
        """
        return unseeing(np.stack([softmax(backbone.logits(m, images).astype(np.float64), axis=-1) for m in self._models]), exclude_fold)

    def excess(self, images: NDArray[np.uint8], label: str, exclude_fold: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """How many times as far from the real images of `label` as these lie (N,), of (N, H, W, 3) images; over 1: out of distribution. Folds as above."""
        number = self.classes.index(label)
        each = [ood.distances(backbone.texture(m, images), images, known)[..., number].T for m, known in zip(self._models, self._known, strict=True)]
        return ood.excess(unseeing(np.stack(each), exclude_fold).T[..., None], self._limits[:, [number]])


def unseeing(each: NDArray[np.float64], exclude_fold: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Of what each model says (M, N, D), the word of model `exclude_fold[i]` on image i; where that is -1, or there is no array, the mean of all: (N, D)."""
    pooled = np.asarray(each.mean(0))
    if exclude_fold is None:
        return pooled
    own = each[np.maximum(exclude_fold, 0), np.arange(each.shape[1])]
    return np.where((exclude_fold >= 0)[:, None], own, pooled)


def load_judge(folder: str | Path, split: pd.DataFrame | None = None) -> Judge:
    """The judge in `folder` (judge.json), its weights checked, and its groups against the sealed parts of `split`."""
    folder = Path(folder)
    info = read_json(folder / "judge.json")
    if split is not None:
        refuse_overlap(read_seen(folder), split, f"judge {folder}")
    models = read_weights(folder, info["weights"], info["backbone"], len(info["classes"]))
    folds, known = sorted(models, key=int), read_known(folder, info)
    limits = ood.unnamed(info["ood"]["limits"], info["classes"])
    return Judge(info["classes"], info["accept"], [models[k] for k in folds], [known[int(k)] for k in folds], limits, info.get("colourless", False))
