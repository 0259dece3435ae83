"""Training the classifiers of one regime, one per seed: what stage `train` and the study on val have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, f1_score

from stages.classifier import backbone, mix
from stages.classifier.fit import Recipe, class_weights, course, fit
from stages.dataset.table import decode
from stages.runtime.files import sha256
from stages.runtime.parallel import Tick, each
from stages.runtime.params import Params

DIGITS = 6


def macro_ap(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean one-vs-rest average precision of the classes present in `labels` (N,), of logits (N, C): the selection score."""
    log_p = log_softmax(logits, axis=1)
    return float(np.mean([average_precision_score(labels == c, log_p[:, c]) for c in np.unique(labels)]))


def val_scores(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64], rare: list[int]) -> dict[str, float]:
    """macro_f1, rare_f1 (at argmax) and rare_ap of one classifier on val, in 0..1, as evaluate defines them; 0 for a rare class without an image.

    `logits` (N, C), `labels` (N,), `rare` class indices.
    """
    chosen, log_p = logits.argmax(1), log_softmax(logits, axis=1)
    ap = [average_precision_score(labels == c, log_p[:, c]) if (labels == c).any() else 0.0 for c in rare]
    values = {
        "macro_f1": f1_score(labels, chosen, labels=np.unique(labels), average="macro", zero_division=0),
        "rare_f1": f1_score(labels, chosen, labels=rare, average="macro", zero_division=0),
        "rare_ap": np.mean(ap),
    }
    return {name: round(float(value), DIGITS) for name, value in values.items()}


def class_prior(labels: NDArray[np.int64], phases: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """The share of each class (C,) among the rows that training ends on: those of the last phase."""
    counts = np.bincount(labels[phases == phases.max()], minlength=classes)
    return np.asarray(counts / counts.sum())


def adjusted(logits: NDArray[np.floating[Any]], prior: NDArray[np.float64], tau: float) -> NDArray[np.float32]:
    """Logit adjustment (Menon et al. 2021, post hoc): `logits` (..., C) less `tau` times the log of the class shares `prior` (C,) of training."""
    return np.asarray(logits - tau * np.log(np.maximum(prior, 1e-6)), np.float32)


def worth(scores: Mapping[str, float]) -> float:
    """What is chosen on val is chosen by this: the mean of the verdict's two scores, of `scores` as `val_scores` gives them."""
    return (scores["rare_f1"] + scores["rare_ap"]) / 2


def best_tau(logits: NDArray[np.float32], labels: NDArray[np.int64], rare: list[int], prior: NDArray[np.float64], taus: Sequence[float]) -> float:
    """Which of `taus` makes `logits` (N, C) of val, `adjusted` for `prior`, worth most; the least on ties."""
    return max(sorted(taus), key=lambda tau: worth(val_scores(adjusted(logits, prior, tau), labels, rare)))


def shift_bias(model: torch.nn.Module, prior: NDArray[np.float64], tau: float) -> None:
    """`adjusted` in place: takes `tau` log(prior) off the bias of the last layer."""
    with torch.no_grad():
        head = model.get_classifier()  # type: ignore[operator]
        head.bias -= tau * torch.tensor(np.log(np.maximum(prior, 1e-6)), dtype=head.bias.dtype, device=head.bias.device)


def exposures(
    labels: NDArray[np.int64], kinds: NDArray[np.str_], phases: NDArray[np.int64], classes: list[str], recipe: Recipe
) -> dict[str, dict[str, int]]:
    """How often each class was shown, by kind, in one run of `recipe` over rows with `labels`, `kinds` and `phases`."""
    rows = torch.cat(course(phases, recipe, torch.Generator().manual_seed(recipe.seed))).numpy()
    shown = pd.crosstab(labels[rows], kinds[rows]).reindex(index=range(len(classes)), columns=list(mix.KINDS), fill_value=0)
    return {c: dict(zip(mix.KINDS, counts, strict=True)) for c, counts in zip(classes, shown.to_numpy().tolist(), strict=True)}


def train_seeds(
    params: Params,
    regime: str,
    classes: list[str],
    rows: pd.DataFrame,
    pool: pd.Series,
    shown: Mapping[str, NDArray[np.uint8]],
    val_labels: NDArray[np.int64],
    start: Path | None,
    out: Path,
    look: Callable[[int, torch.nn.Module], dict[str, Any]] = lambda seed, model: {},
) -> dict[int, dict[str, Any]]:
    """Train `regime` on its mix `rows` (`mix.build`), images from `pool` (encoded, by id), and save OUT/seed<k>.safetensors.

    Per seed of `rows`: step (chosen on `shown["val"]` and `val_labels`), weights {file, sha256}, exposures, val (`val_scores`), prior
    (class shares, (C,)), logit_tau (what was taken off), val_tau (the best on val for what nothing was taken off), logits (N, C) of each set of
    images in `shown`, and what `look(seed, model)` adds, all of the model read back from its file.
    """
    own, t = params.regime(regime), params.train
    extra = {"real_weight": 1.0, "first": 1.0} | own.model_dump()
    number = {c: i for i, c in enumerate(classes)}
    rare = [number[d] for d in sorted(params.rare)]
    used = sorted(rows["id"].unique())
    where = {name: k for k, name in enumerate(used)}
    pixels = decode(pool.loc[used], params.refine.size)

    def learn(seed: int, tick: Tick) -> dict[str, Any]:
        mine = rows[rows["seed"] == seed]
        index = mine["id"].map(where).to_numpy()
        labels, phases = (np.asarray(column, np.int64) for column in (mine["label"].map(number), mine["phase"]))
        recipe = Recipe(
            steps=t.steps, batch=t.batch, lr=t.lr, weight_decay=t.weight_decay, augment=t.augment, seed=seed,
            focal_gamma=t.focal_gamma if t.loss == "focal" else 0.0,
            class_weights=class_weights(labels, len(classes), own.class_weighting),
            randaugment=own.randaugment, checkpoints=t.checkpoints, first=extra["first"],
        )  # fmt: skip
        by_row = np.where(mine["kind"] == "real", extra["real_weight"], 1.0) if extra["real_weight"] != 1 else None
        model = backbone.build(t.backbone, len(classes), start, t.pretrained, seed, t.frozen_stages)
        score = lambda m: macro_ap(backbone.logits(m, shown["val"]), val_labels)  # noqa: E731
        step = fit(model, pixels[index], labels, recipe, weights=by_row, phases=phases, score=score, tick=lambda: tick(1))
        prior = class_prior(labels, phases, len(classes))
        val_tau = best_tau(backbone.logits(model, shown["val"]), val_labels, rare, prior, t.logit_taus)
        tau = val_tau if own.logit_tau == "val" else own.logit_tau
        shift_bias(model, prior, tau)
        path = out / f"seed{seed}.safetensors"
        backbone.save(model, path, half=True)
        saved = backbone.load(t.backbone, len(classes), path)
        logits = {name: backbone.logits(saved, images) for name, images in shown.items()}
        return {
            "step": step,
            "weights": {"file": path.name, "sha256": sha256(path)},
            "exposures": exposures(labels, mine["kind"].to_numpy(str), phases, classes, recipe),
            "val": val_scores(logits["val"], val_labels, rare),
            "prior": prior,
            "logit_tau": tau,
            "val_tau": val_tau,
            "logits": logits,
            **look(seed, saved),
        }

    seeds = rows["seed"].unique().tolist()
    return dict(zip(seeds, each(learn, seeds, params.threads, f"train {regime}", "step", t.steps * len(seeds)), strict=True))
