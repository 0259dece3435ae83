"""Which synthetic images are kept: the judge names the right class and finds them among its real images, nothing is memorised, repeated, black or broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.distance import cdist

from stages.dataset.table import colourless
from stages.diffusion.sampling import Request
from stages.imaging.dihedral import dihedral

THUMB = 16
HOPELESS = 100  # a round of this many draws without a single accepted one ends the drawing: the next would be no better
FLAT = 0.02  # standard deviation over all pixels (0..1) under which an image shows nothing
BROKEN, EMPTY, MEMORISED, DUPLICATE, JUDGE, STRANGE = "not finite", "black or flat", "memorised", "duplicate", "judge", "out of distribution"


@dataclass(frozen=True)
class Attempt:
    """A drawn image and what became of it: `reason` is empty when it was accepted; `pixels` None when it was not finite."""

    request: Request
    pixels: NDArray[np.uint8] | None
    reason: str
    probabilities: NDArray[np.float64]
    nearest: float

    @property
    def accepted(self) -> bool:
        """Whether it enters the pool."""
        return not self.reason


def to_pixels(image: NDArray[np.float32], side: int, grey: bool) -> NDArray[np.uint8] | None:
    """(S, S, 3) in 0..1 as (side, side, 3) uint8; None when a value is not finite.

    `grey` takes the colour off, for data that have none (`colourless`): a base that learned from colour pictures leaves a tint, by
    which synthetic scans would be told from real ones.
    """
    if not np.isfinite(image).all():
        return None
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if grey:
        pixels = in_grey(pixels)
    if len(pixels) == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def in_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S, 3) uint8 without its colour, by the luma of ITU-R BT.601."""
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))


def thumbs(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, S, S, 3) uint8 as (N, 16 * 16 * 3) in 0..1, averaged over areas."""
    small = [np.asarray(Image.fromarray(i).resize((THUMB, THUMB), Image.Resampling.BOX)) for i in images]
    return np.stack(small).reshape(len(images), -1) / 255


def references(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Thumbs of `images` in all eight turns and mirrorings, (8 N, 768): copies are looked for in each."""
    turned = dihedral(thumbs(images).reshape(-1, THUMB, THUMB, 3))
    return np.asarray(turned.reshape(8 * len(images), -1), np.float64)


def nearest(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root-mean-square distance (0..1) of each thumb in `one` (N, D) to the nearest of `others` (M, D); 1 when there is none."""
    if not len(others):
        return np.ones(len(one))
    return np.asarray(cdist(one, others).min(1) / np.sqrt(one.shape[1]))


def fill(
    plan: Callable[[int, int], Request],
    draw: Callable[[Sequence[Request]], NDArray[np.float32]],
    judge: Callable[[NDArray[np.uint8], Sequence[Request]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    *,
    pool: int,
    max_attempts: int,
    wanted: int,
    accept: float,
    train: NDArray[np.uint8],
    min_distance: float,
) -> list[Attempt]:
    """Draw `pool` slots; a rejected slot is drawn again, up to `max_attempts` times in all (fewer when all is refused). Every attempt, by slot and attempt.

    `plan(slot, attempt)` says what to draw, `draw` gives images (N, S, S, 3) in 0..1, `judge` their class probabilities (N, C) and how many
    times as far as real images of class `wanted` they lie from these (N,). Accepted: the judge gives class `wanted` at least `accept` (0 leaves
    that out) and finds it within that distance; the thumb is `min_distance` or more away from
    every image of `train` (its source too) and from every accepted one. All open slots are drawn before any is drawn again,
    and decided in order of slots, so that the result does not depend on how the drawing is batched. Where `train` has no colour, what is drawn
    loses its own (`to_pixels`).
    """
    grey = colourless(train)
    known = references(train)
    taken = np.empty((0, known.shape[1]))
    done: list[Attempt] = []
    open_slots = list(range(pool))
    for attempt in range(max_attempts):
        if not open_slots:
            break
        requests = [plan(slot, attempt) for slot in open_slots]
        pixels = [to_pixels(image, train.shape[1], grey) for image in draw(requests)]
        whole = [i for i, p in enumerate(pixels) if p is not None]
        said = judge(np.stack([p for p in pixels if p is not None]), [requests[i] for i in whole]) if whole else ((), ())
        judged = dict(zip(whole, zip(*said, strict=True), strict=True))
        again = []
        for i, (slot, request, image) in enumerate(zip(open_slots, requests, pixels, strict=True)):
            if image is None:
                done.append(Attempt(request, None, BROKEN, np.full(0, np.nan), float("nan")))
                again.append(slot)
                continue
            own = thumbs(image[None])
            distance = float(nearest(own, known)[0])
            p, excess = judged[i]
            if image.std() / 255 < FLAT:
                reason = EMPTY
            elif distance < min_distance:
                reason = MEMORISED
            elif float(nearest(own, taken)[0]) < min_distance:
                reason = DUPLICATE
            elif p[wanted] < accept:
                reason = JUDGE
            elif excess > 1:
                reason = STRANGE
            else:
                reason = ""
                taken = np.concatenate([taken, references(image[None])])
            done.append(Attempt(request, image, reason, p, distance))
            if reason:
                again.append(slot)
        if len(again) == len(open_slots) >= HOPELESS:
            break
        open_slots = again
    return sorted(done, key=lambda a: (a.request.slot, a.request.attempt))
