"""The bars that `models/base` has to clear, measured on drawings it has not seen. Used by `pretrain` (its card) and `make bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.classifier import backbone
from stages.classifier.fit import Recipe, fit
from stages.diffusion.pretraining import psnr, reconstruct
from stages.imaging import corpus
from stages.imaging.phantoms import COMMON, RARE, SITES, SKIN_TONES
from stages.metrics.generative import kid_interval
from stages.runtime.params import Augment

GUIDANCE, STEPS = 4.0, 20
ATTRIBUTES = {"skin_tone": SKIN_TONES, "site": SITES}
SAID = {name: corpus.named(name) for name in COMMON}


def sample(pipe: Any, prompts: list[str], seed: int = 0, guidance: float = GUIDANCE, batch: int = 50) -> NDArray[np.uint8]:
    """One image (H, W, 3) uint8 per prompt: DPM-Solver++, a generator per image."""
    pipe.set_progress_bar_config(disable=True)
    out = []
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + i + k) for k in range(len(part))]
        images = pipe(part, num_inference_steps=STEPS, guidance_scale=guidance, generator=generators, output_type="np").images
        out.append(np.round(images * 255).astype(np.uint8))
    return np.concatenate(out)


def reconstruction(vae: Any, size: int, n: int) -> dict[str, Any]:
    """Mean per-image PSNR (dB) on `n` unseen drawings of the common and of each rare class."""
    out: dict[str, Any] = {"n_each": n}
    for name, classes in (("common", COMMON), *((c, (c,)) for c in RARE)):
        images = corpus.captioned(n, size, f"bars/reconstruction/{name}", classes).images
        out[name] = round(float(psnr(images, reconstruct(vae, images)).mean()), 2)
    return out


def scorer(size: int, name: str, per_class: int = 2800, steps: int = 1200) -> torch.nn.Module:
    """A classifier of the common classes trained on fresh drawings, from random weights, on nothing the base has seen."""
    fresh = corpus.captioned(per_class * len(COMMON), size, "bars/scorer")
    model = backbone.build(name, len(COMMON), seed=1)
    plain = Augment(flips=True, rotation=180.0, zoom=0.1, colour=0.05)
    fit(model, fresh.images, fresh.labels, Recipe(steps=steps, batch=64, lr=0.004, weight_decay=0.01, augment=plain, seed=1))
    return model


@torch.no_grad()
def features(model: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Pooled features (N, D) of a timm model."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    maps = torch.cat([model.forward_features(backbone.normalise(part)) for part in x.split(64)])  # type: ignore[operator]
    return maps.mean((2, 3)).double().numpy()


def naming(pipe: Any, judge: torch.nn.Module, size: int, n: int) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """Share of `n` samples a common class that `judge` names as requested, its accuracy on real ones, KID and its floor."""
    unseen = corpus.captioned(n * len(COMMON), size, "bars/real")
    real, labels = unseen.images, unseen.labels
    other = corpus.captioned(n * len(COMMON), size, "bars/floor").images
    fake = sample(pipe, unseen.texts)
    named, known = (backbone.logits(judge, x).argmax(1) == labels for x in (fake, real))
    a, b, c = (features(judge, x) for x in (real, fake, other))
    out = {
        "n_each": n,
        "named": {name: round(float(named[labels == k].mean()), 3) for k, name in enumerate(COMMON)} | {"all": round(float(named.mean()), 3)},
        "scorer_on_real": {name: round(float(known[labels == k].mean()), 3) for k, name in enumerate(COMMON)}
        | {"all": round(float(known.mean()), 3)},
        "kid": dict(zip(("value", "low", "high"), (round(v, 4) for v in kid_interval(a, b)), strict=True)),
        "kid_floor": dict(zip(("value", "low", "high"), (round(v, 4) for v in kid_interval(a, c)), strict=True)),
    }
    return out, {"real": real, "samples": fake}


def share(right: NDArray[np.bool_]) -> dict[str, float]:
    """The share of `right` (N,) with its 95% interval (Wilson 1927) and n."""
    result = binomtest(int(right.sum()), len(right))
    low, high = result.proportion_ci(method="wilson")
    return {"value": round(float(right.mean()), 3), "low": round(low, 3), "high": round(high, 3), "n": len(right)}


def attributes_obeyed(
    pipe: Any, backbone_dir: Path, size: int, said: Mapping[str, str] = SAID, guidance: float = GUIDANCE, n: int = 300, fresh: int = 1500
) -> dict[str, Any]:
    """How often a probe reads from `n` samples the skin tone and the site that their prompts ask for, beside chance and `n` real drawings.

    `said`: the classes that are drawn, and how prompts speak of them. The probe: logistic regression on what the backbone in `backbone_dir`
    sees in `fresh` unseen drawings of these classes, in which tones, sites and classes are balanced. Per attribute: chance, samples and
    drawings, each {value, low, high, n}. No pixel of a drawing depends on the site, so that of the drawings' sites is at chance, and the
    samples' can be no better: obedience cannot be seen there.
    """
    drawn, lesions = corpus.portraits(fresh, size, "bars/attributes/fresh", tuple(said))
    real, wanted = corpus.portraits(n, size, "bars/attributes/real", tuple(said))
    prompts = [f"a dermoscopic image of {said[x.label]} on the {x.site} on {x.skin_tone} skin" for x in wanted]
    known, true, fake = (backbone.features(backbone_dir, x) for x in (drawn, real, sample(pipe, prompts, 1, guidance)))
    out: dict[str, Any] = {}
    for name, values in ATTRIBUTES.items():
        asked = np.array([getattr(x, name) for x in wanted])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(known, [getattr(x, name) for x in lesions])
        out[name] = {
            "chance": round(1 / len(values), 3),
            "samples": share(probe.predict(fake) == asked),
            "drawings": share(probe.predict(true) == asked),
        }
    return out
