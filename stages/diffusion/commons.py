"""The common classes as the base itself draws them, from its own prompts and without any adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.dataset.card import BASE, Card
from stages.diffusion.base import load_base
from stages.diffusion.prompts import render_prompts
from stages.diffusion.sampling import TEXT, Request, Sampler
from stages.diffusion.selection import to_pixels
from stages.runtime.determinism import seed_of
from stages.runtime.errors import LawError
from stages.runtime.params import Audit


def draw_common(
    base_dir: Path, card: Card, known: Mapping[str, Sequence[Mapping[Any, Any]]], count: int, size: int, p: Audit, threads: int, grey: bool
) -> dict[str, NDArray[np.uint8]]:
    """`count` images (size, size, 3) of each class in `known`, each with the attributes of one of the class's images there; `threads` processes draw.

    `grey` takes the colour off (`to_pixels`). An image that is not finite is left out; `LawError` when a class has no other.
    """
    pipe, base = load_base(base_dir)
    sampler = Sampler(pipe, {}, p.steps, p.guidance)
    requests = []
    for name, rows in known.items():
        for slot in range(count):
            rng = np.random.default_rng(seed_of("audit", p.seed, name, slot))
            prompts = render_prompts(card.prompts[BASE], rows[int(rng.integers(len(rows)))], card.classes[name].title)
            prompt = prompts[int(rng.integers(len(prompts)))]
            requests.append(Request(slot, 0, TEXT, prompt, None, None, seed_of(base["hash"], name, prompt, slot, p.seed)))
    drawn = [to_pixels(image, size, grey) for image in sampler.forked(requests, threads, "common classes, drawn by the base")]
    found = {}
    for k, name in enumerate(known):
        finite = [image for image in drawn[k * count : (k + 1) * count] if image is not None]
        if not finite:
            raise LawError(f"the base of {base_dir} draws no finite image of {name}: build it anew (dvc repro base)")
        found[name] = np.stack(finite)
    return found
