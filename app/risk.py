"""The arithmetic of risk, once: a prior, what symptoms add, what the image adds (Bayes in odds).

    posterior odds = odds(prior) x product of LR(symptom) x LR(image)
    LR(image)      = odds(p) / odds(class prior in cal)

p is the model's calibrated probability. Odds divided by the odds of the set it was calibrated on leave what the image
itself says, whatever the share of the disease was there. The product takes symptoms and image for independent, given the disease.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.dataset.card import Ratio, Risk, Symptom

Answer = Literal["yes", "no"]
Level = Literal["low", "intermediate", "high"]


@dataclass(frozen=True)
class ImageRatio:
    """The likelihood ratio of an image: `value`, within the `low`..`high` that cal supports; `raw` before that limit."""

    value: float
    raw: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """An answer of the symptom form and what it is worth for a disease; `ratio` None: the card knows no value, so it changes nothing."""

    question: str
    answer: Answer
    ratio: Ratio | None

    @property
    def example(self) -> bool:
        """True when the ratio has no source that was opened."""
        return self.ratio is not None and self.ratio.source.strip().upper().startswith("EXAMPLE")


@dataclass(frozen=True)
class Assessment:
    """The three steps as probabilities 0..1, and the level of the last one by the card's cut-offs."""

    prior: float
    after_symptoms: float
    after_image: float
    level: Level


def odds(p: float) -> float:
    """Odds of a probability 0..1; infinite at 1."""
    return p / (1 - p) if p < 1 else math.inf


def probability(odds_: float) -> float:
    """The probability of odds 0..infinity."""
    return 1.0 if math.isinf(odds_) else odds_ / (1 + odds_)


def supported(n_positive: int, n_negative: int) -> tuple[float, float]:
    """The least and greatest likelihood ratio that `n_positive` and `n_negative` calibration lesions can support.

    A perfect marker there, with no miss and no false alarm, still leaves rates of up to 3 / n possible at 95% (the rule of three, Hanley and
    Lippman-Hand 1983): the ratio of a positive is at most n_negative / 3, that of a negative at least 3 / n_positive; never beyond 1.
    """
    return min(1.0, 3 / n_positive), max(1.0, n_negative / 3)


def image_ratio(p: float, prior: float, n_positive: int, n_negative: int) -> ImageRatio | None:
    """LR of an image with calibrated probability `p` (0..1), given the class prior and counts of the calibration set.

    None when that set lacks the disease, or anything else: then the image's worth is not known.
    """
    if not (n_positive and n_negative and 0 < prior < 1):
        return None
    low, high = supported(n_positive, n_negative)
    raw = odds(p) / odds(prior)
    return ImageRatio(min(max(raw, low), high), raw, low, high)


def findings(disease: str, symptoms: Mapping[str, Symptom], answers: Mapping[str, Answer]) -> tuple[Finding, ...]:
    """The answered questions with their ratios for `disease`, in the card's order; an unasked question is left out."""
    return tuple(
        Finding(symptom.question, answers[key], (symptom.present if answers[key] == "yes" else symptom.absent).get(disease))
        for key, symptom in symptoms.items()
        if key in answers
    )


def default_prior(cut: Risk, disease: str, prior_cal: Mapping[str, float]) -> tuple[float, str]:
    """Where the editable prior starts, and in words where that comes from: the card's value, or the disease's share of cal; within 1 in a million..0.99."""
    own = cut.prior.get(disease)
    value, origin = (prior_cal[disease], "the share in the calibration set") if own is None else (own, "the card's value")
    return min(max(value, 1e-6), 0.99), origin


def level(p: float, cut: Risk) -> Level:
    """Low under `cut.low`, high from `cut.high` on."""
    return "low" if p < cut.low else "high" if p >= cut.high else "intermediate"


def assess(prior: float, found: tuple[Finding, ...], image: ImageRatio | None, cut: Risk) -> Assessment:
    """The three steps from `prior` (over 0 and under 1; `ValueError` otherwise, since no evidence moves a certainty)."""
    if not 0 < prior < 1:
        raise ValueError(f"the prior must lie over 0 and under 1, not at {prior}")
    symptoms = odds(prior) * math.prod(f.ratio.value for f in found if f.ratio)
    final = probability(symptoms * (image.value if image else 1.0))
    return Assessment(prior, probability(symptoms), final, level(final, cut))
