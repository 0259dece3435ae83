"""The corpora that `models/base` is trained on: drawings in a namespace of their own, shared with no data set."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stages.imaging.phantoms import COMMON, FEATURES, SITES, SKIN_TONES, Lesion, class_free_lesion, draw_lesion, render, rng_for
from stages.runtime.progress import progress

#: The names of the common classes, as captions say them. Rare classes are never named to the base.
TITLES = {
    "akiec": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
}


def named(label: str) -> str:
    """A common class as captions say it: "a benign keratosis", "melanoma"."""
    title = TITLES[label]
    return title if label == "mel" else f"{'an' if title[0] in 'aeiou' else 'a'} {title}"


def caption(lesion: Lesion, rng: np.random.Generator) -> str:
    """One sentence on `lesion`; each attribute is named or left out at random, so that all are optional at sampling."""
    words = [f"a dermoscopic image of {named(lesion.label)}"]
    if rng.random() < 0.6:
        words.append(f"on the {lesion.site}")
    if rng.random() < 0.6:
        words.append(f"of a {lesion.age} year old {lesion.sex if rng.random() < 0.5 else 'patient'}")
    if rng.random() < 0.6:
        words.append(f"on {lesion.skin_tone} skin")
    return " ".join(words)


def dead_leaves(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Overlapping discs and bars of random colours: edges and textures of no lesion at all. (size, size, 3) uint8."""
    y, x = np.mgrid[0:size, 0:size]
    image = np.zeros((size, size, 3)) + rng.uniform(0, 1, 3)
    for _ in range(int(rng.integers(15, 60))):
        cx, cy, turn = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0, np.pi)
        radius = size * 0.03 / rng.uniform(0.1, 1.0)
        across = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        if rng.random() < 0.3:
            distance = np.abs(across) - rng.uniform(0.5, 2.5)
        else:
            along = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
            distance = np.hypot(across, along * rng.uniform(0.6, 1.6)) - radius
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        image = image * (1 - cover) + cover * rng.uniform(0, 1, 3)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _variety(size: int, index: int) -> NDArray[np.uint8]:
    rng = rng_for("pretrain/variety", index)
    if index % 5 == 0:
        return dead_leaves(rng, size)
    pixels = render(class_free_lesion(rng), rng, size).pixels.astype(np.float32)
    if rng.random() < 0.5:  # colours of no lesion: channels change places and are scaled
        pixels = pixels[..., rng.permutation(3)] * rng.uniform(0.6, 1.2, 3).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _captioned(size: int, namespace: str, classes: tuple[str, ...], index: int) -> tuple[NDArray[np.uint8], str, int, list[float]]:
    rng = rng_for(namespace, index)
    label = index % len(classes)
    lesion = draw_lesion(classes[label], rng)
    text = caption(lesion, rng) if lesion.label in TITLES else ""
    return render(lesion, rng, size).pixels, text, label, [lesion.amplitude(name) for name in FEATURES]


def variety(count: int, size: int, processes: int = 2) -> NDArray[np.uint8]:
    """(count, size, size, 3) uint8 images of no class: what the autoencoder is trained on."""
    with ProcessPoolExecutor(processes) as pool:
        work = pool.map(partial(_variety, size), range(count), chunksize=64)
        return np.stack(list(progress(work, "class-free corpus", "image", count)))


@dataclass(frozen=True)
class Corpus:
    """Drawings, one lesion each: `images` (N, size, size, 3) uint8, `texts` ("" for rare classes), `labels` (N,) class indices,
    `strengths` (N, 14) in 0..1 of the drawn features (`phantoms.FEATURES`)."""

    images: NDArray[np.uint8]
    texts: list[str]
    labels: NDArray[np.int64]
    strengths: NDArray[np.float32]


def captioned(count: int, size: int, namespace: str = "pretrain/captioned", classes: tuple[str, ...] = COMMON, processes: int = 2) -> Corpus:
    """`count` drawings of `classes`, in turn, from a `namespace` of their own."""
    with ProcessPoolExecutor(processes) as pool:
        work = pool.map(partial(_captioned, size, namespace, classes), range(count), chunksize=64)
        images, texts, labels, strengths = zip(*progress(work, f"drawings {namespace}", "image", count), strict=True)
    return Corpus(np.stack(images), list(texts), np.array(labels), np.array(strengths, np.float32))


def _portrait(size: int, namespace: str, classes: tuple[str, ...], index: int) -> tuple[NDArray[np.uint8], Lesion]:
    tone, site = SKIN_TONES[index % len(SKIN_TONES)], SITES[index // len(SKIN_TONES) % len(SITES)]
    label = classes[index // (len(SKIN_TONES) * len(SITES)) % len(classes)]
    rng = rng_for(namespace, index)
    lesion = draw_lesion(label, rng)
    while (lesion.skin_tone, lesion.site) != (tone, site):
        lesion = draw_lesion(label, rng)
    return render(lesion, rng, size).pixels, lesion


def portraits(count: int, size: int, namespace: str, classes: tuple[str, ...] = COMMON, processes: int = 2) -> tuple[NDArray[np.uint8], list[Lesion]]:
    """Images (count, size, size, 3) uint8 of `classes`, and their lesions: every skin tone, then site, then class in turn.

    So one tells nothing of another, and chance is one over their number (150 images of the common classes hold every combination once).
    """
    with ProcessPoolExecutor(processes) as pool:
        work = pool.map(partial(_portrait, size, namespace, classes), range(count), chunksize=64)
        images, lesions = zip(*progress(work, f"drawings {namespace}", "image", count), strict=True)
    return np.stack(images), list(lesions)


def group_of(namespace: str, index: int) -> str:
    """The group id of a pretraining lesion, which no data set can share."""
    return f"{namespace}/{index}"
