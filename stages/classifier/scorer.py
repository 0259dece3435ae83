"""The independent scorer of the generator: classifiers trained on real images that neither the generator nor its judge has seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from stages.classifier import backbone
from stages.classifier.fit import Recipe, class_weights, fit
from stages.runtime.parallel import Tick, each
from stages.runtime.params import Train

MEMBERS = (1, 2)  # seeds of the ensemble: one process each on two cores


def score(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    asked: NDArray[np.uint8],
    *,
    classes: int,
    start: Path | None,
    steps: int,
    train: Train,
    threads: int,
) -> NDArray[np.float64]:
    """Probabilities (M, C) of the images `asked` (M, H, W, 3) by an ensemble trained on `images` (N, H, W, 3) and `labels` (N,).

    It starts from the weights in `start` and trains for `steps` with the batch, rate, decay, frozen stages and augmentation of the regimes; every
    class weighs the same.
    """

    def learn(seed: int, tick: Tick) -> NDArray[np.float64]:
        model = backbone.build(train.backbone, classes, start, train.pretrained, seed, train.frozen_stages)
        recipe = Recipe(
            steps=steps, batch=train.batch, lr=train.lr, weight_decay=train.weight_decay, augment=train.augment, seed=seed,
            class_weights=class_weights(labels, classes, 1.0),
        )  # fmt: skip
        fit(model, images, labels, recipe, tick=lambda: tick(1))
        return np.asarray(softmax(backbone.logits(model, asked).astype(np.float64), axis=1))

    return np.mean(each(learn, MEMBERS, threads, "scorer", "step", steps * len(MEMBERS)), axis=0)
