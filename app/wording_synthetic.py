"""What is said of synthetic images: what they are, how each was begun, judged and rejected, and what the audit's figures show."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.wording import percent

GENERATED = "AI-generated"
NO_PATIENT = "Every image marked **AI-generated** was drawn by a diffusion model. None is a picture of a patient, none is fit for a diagnosis."
#: Why a synthetic image was rejected (stages.diffusion.selection), and how one was begun (stages.diffusion.sampling).
REASONS = {
    "judge": "the judge does not see what was asked for",
    "out of distribution": "unlike real images of the diagnosis",
    "memorised": "almost a copy of a training image",
    "duplicate": "almost a copy of an accepted image",
    "black or flat": "nothing to see: black, or one colour",
    "not finite": "the drawing failed",
}
MODES = {
    "text2img": "drawn from words alone",
    "img2img": "begun from a real image of the disease",
    "interclass": "begun from a real image of another diagnosis",
}
DISTANCE = (
    "Distance: how much two images differ when they are shrunk to 16 × 16 pixels, in the most alike of eight turns and mirrorings. "
    "0 is the same image, 1 is black against white. A copy of a patient's image must not be passed on: it is that patient's data."
)
#: The audit's figures, by the beginning of their names: a title, and what to see in them.
AUDIT = {
    "accuracy": (
        "Does an image show what was asked for?",
        "A network that has seen neither the generator nor the judge names each image. Left: synthetic images, right: real ones. "
        "A row is what was asked for (or the diagnosis), a column what was named; the more lies on the diagonal, the better. "
        "Where the left side is worse than the right, the images do not show the disease as real ones do.",
    ),
    "distances": (
        "Are synthetic images copies?",
        "How near images lie to the nearest training image: coloured, the synthetic ones; dark, real ones that nobody trained on. "
        "Further left is nearer. Coloured well left of dark means nearer than chance brings; left of the dashed line an image counts as a copy.",
    ),
    "pairs": (
        "Which pairs does a network find closest?",
        "Each synthetic image stands left of the training image that a network finds most alike. Look for the same lesion, not for the same kind.",
    ),
    "rating": (
        "Can you tell them apart?",
        "Real and synthetic images, mixed. Write your answers into rating_form.csv; `python -m stages.rate` says how well you did.",
    ),
}


def reason(code: str) -> str:
    """Why a synthetic image was rejected; a code that has no words here stands for itself."""
    return REASONS.get(code, code)


def mode(code: str) -> str:
    """How a synthetic image was begun; a code that has no words here stands for itself."""
    return MODES.get(code, code)


def spelled(text: str, titles: Mapping[str, str]) -> str:
    """A line of the audit with classes and modes in words instead of codes."""
    words = {**MODES, **titles}
    return re.sub(rf"\b({'|'.join(map(re.escape, words))})\b", lambda found: words[found[0]], text)


def drawn(probability: float | None, tries: int, rejected: str) -> str:
    """The caption of an image drawn on demand: the judge's probability 0..1 for what was asked for (None: not judged), tries, and why it was rejected."""
    said = "not judged" if probability is None else f"judge {percent(probability)}"
    again = "" if tries == 1 else f", try {tries}"
    return f"{GENERATED}: {reason(rejected)}, {said}{again}" if rejected and rejected != said else f"{GENERATED}: {said}{again}"


def duration(seconds: float) -> str:
    """A time to wait, roughly."""
    return "a few seconds" if seconds < 10 else f"{round(seconds / 10) * 10} seconds" if seconds < 95 else f"{round(seconds / 60)} minutes"
