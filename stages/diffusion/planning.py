"""What to draw for a disease: for each slot and attempt a mode, a source, a strength, a prompt and a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stages.diffusion.prompts import render_prompts
from stages.diffusion.sampling import IMAGE, INTERCLASS, TEXT, Request
from stages.runtime.determinism import seed_of
from stages.runtime.params import Generate

Row = Mapping[Any, Any]  # a training image: its id, group (lesion) and attributes


def places(p: Generate) -> list[tuple[str, int]]:
    """Each slot's mode and its place among the slots of that mode: text first, then the disease's own images, then other classes'."""
    ends = [round(p.pool * share) for share in (p.modes.text2img, p.modes.text2img + p.modes.img2img)]
    counts = {TEXT: ends[0], IMAGE: ends[1] - ends[0], INTERCLASS: p.pool - ends[1]}
    return [(mode, place) for mode, count in counts.items() for place in range(count)]


def stranger(common: Mapping[str, Sequence[Row]], attempt: int, *key: object) -> Row:
    """A training image of a common class: classes and their lesions in an order of the slot's own (`key`), others at every attempt.

    Every class comes equally often, however many images it has, and so does every lesion of a class.
    """

    def rng(*more: object) -> np.random.Generator:
        return np.random.default_rng(seed_of("interclass", *key, *more))

    turn, place = divmod(attempt, len(common))
    name = str(rng().permutation(sorted(common))[place])
    lesions = sorted({str(row["group"]) for row in common[name]})
    lesion = str(rng(name).permutation(lesions)[turn % len(lesions)])
    images = [row for row in common[name] if row["group"] == lesion]
    return images[int(rng(name, attempt).integers(len(images)))]


def planner(
    disease: str, templates: Sequence[str], token: str, own: Sequence[Row], common: Mapping[str, Sequence[Row]], p: Generate, hashes: tuple[str, str]
) -> Callable[[int, int], Request]:
    """What to draw for (slot, attempt). Prompts tell the disease with the attributes of a training image:

    text2img takes those of one of the disease's `own` images; img2img starts from one, each equally often, in another order at every
    attempt; interclass starts from an image of a class in `common` (rows by class) and keeps its attributes, so that the disease comes on
    new skin. `hashes` are base and adapter, on which the seed hangs, as on all else that is said of the image (law 5).
    """
    slots = places(p)

    def plan(slot: int, attempt: int) -> Request:
        mode, place = slots[slot]
        rng = np.random.default_rng(seed_of("plan", p.seed, disease, slot, attempt))
        source: str | None = None
        strength: float | None = None
        if mode == TEXT:
            row = own[int(rng.integers(len(own)))]
        elif mode == IMAGE:
            order = np.random.default_rng(seed_of("order", p.seed, disease, attempt)).permutation(len(own))
            turn, place = divmod(place, len(own))
            # One on at every turn, so that a source meets every strength whatever their numbers are.
            row, strength = own[int(order[place])], p.strengths.img2img[(turn + place) % len(p.strengths.img2img)]
        else:
            row, strength = stranger(common, attempt, p.seed, disease, slot), p.strengths.interclass[place % len(p.strengths.interclass)]
        if mode != TEXT:
            source = str(row["id"])
        prompts = render_prompts(templates, row, token)
        prompt = prompts[int(rng.integers(len(prompts)))]
        seed = seed_of(*hashes, disease, prompt, mode, source, strength, slot, attempt, p.seed)
        return Request(slot, attempt, mode, prompt, source, strength, seed)

    return plan
