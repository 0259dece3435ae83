"""The arithmetic of risk, once: a prior, what symptoms add, what the image adds (Bayes in odds).

    posterior odds = odds(prior) x product of LR(symptom) x LR(image)
    LR(image)      = odds(p) / odds(class prior in cal)

p is the model's calibrated probability. Odds divided by the odds of the set it was calibrated on leave what the image
itself says, whatever the share of the disease was there. The product takes symptoms and image for independent, given the disease.
The intervals of the ratios are carried to the posterior on the scale of log odds, where the product is a sum (`interval`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.dataset.card import Ratio, Risk, Symptom

Answer = Literal["yes", "no"]
Level = Literal["low", "intermediate", "high"]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class ImageRatio:
    """The likelihood ratio of an image: `value`, within the `low`..`high` that cal supports; `raw` before that limit.

    `spread` is what the ensemble's members say, from the least to the greatest, within the same limit; None when that is not known.
    """

    value: float
    raw: float
    low: float
    high: float
    spread: Bounds | None = None


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
    """The three steps as probabilities 0..1, the last two with their `interval`, the level of the last one by the card's cut-offs, and the evidence."""

    prior: float
    after_symptoms: float
    after_symptoms_interval: Bounds
    after_image: float
    after_image_interval: Bounds
    level: Level
    findings: tuple[Finding, ...]
    image: ImageRatio | None


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


def image_ratio(p: float, prior: float, n_positive: int, n_negative: int, spread: Bounds | None = None) -> ImageRatio | None:
    """LR of an image with calibrated probability `p` (0..1; `spread` over the ensemble), given the class prior and counts of the calibration set.

    None when that set lacks the disease, or anything else: then the image's worth is not known.
    """
    if not (n_positive and n_negative and 0 < prior < 1):
        return None
    low, high = supported(n_positive, n_negative)

    def limited(chance: float) -> float:
        return min(max(odds(chance) / odds(prior), low), high)

    # The ensemble has a temperature of its own, so that its p may lie beyond its members'.
    members = None if spread is None else (limited(min(p, *spread)), limited(max(p, *spread)))
    return ImageRatio(limited(p), odds(p) / odds(prior), low, high, members)


def image_of(info: Mapping[str, Any], disease: str, p: float, spread: Bounds | None) -> ImageRatio | None:
    """`image_ratio` for `disease` of the model whose model.json is `info`."""
    positive = info["n_cal"][disease]
    return image_ratio(p, info["prior_cal"][disease], positive, sum(info["n_cal"].values()) - positive, spread)


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


def interval(prior: float, ratios: Iterable[tuple[float, float, float]]) -> Bounds:
    """The interval of the posterior (probabilities 0..1) from `prior`, taken as exact, and independent `ratios`, each (value, low, high).

    A log likelihood ratio is close to normal (Simel et al. 1991, J Clin Epidemiol 44:763). Of a sum of independent estimates each limit lies as
    far from the sum as the root of the summed squares of the single distances on that side: MOVER (Zou and Donner 2008, Stat Med 27:1693), which
    is the delta method where intervals are symmetric, and keeps 95% for parts of 95%.
    """
    centre, below, above = math.log(odds(prior)), 0.0, 0.0
    for value, low, high in ratios:
        centre += math.log(value)
        below, above = math.hypot(below, math.log(value / low)), math.hypot(above, math.log(high / value))
    return probability(math.exp(centre - below)), probability(math.exp(centre + above))


def assess(prior: float, found: tuple[Finding, ...], image: ImageRatio | None, cut: Risk) -> Assessment:
    """The three steps from `prior` (over 0 and under 1; `ValueError` otherwise, since no evidence moves a certainty)."""
    if not 0 < prior < 1:
        raise ValueError(f"the prior must lie over 0 and under 1, not at {prior}")
    symptoms = odds(prior) * math.prod(f.ratio.value for f in found if f.ratio)
    final = probability(symptoms * (image.value if image else 1.0))
    known = [(f.ratio.value, f.ratio.low, f.ratio.high) for f in found if f.ratio]
    seen = [(image.value, *(image.spread or (image.value, image.value)))] if image else []
    return Assessment(prior, probability(symptoms), interval(prior, known), final, interval(prior, known + seen), level(final, cut), found, image)


def what_if(
    prior: float, disease: str, symptoms: Mapping[str, Symptom], answers: Mapping[str, Answer], image: ImageRatio | None, cut: Risk
) -> dict[str, dict[Answer | None, Assessment]]:
    """Per question that has a ratio for `disease`: the assessment under each answer to it (None: not asked), the other answers as they are."""
    choices: tuple[Answer | None, ...] = ("yes", "no", None)
    others = {key: {other: said for other, said in answers.items() if other != key} for key in symptoms}
    return {
        key: {choice: assess(prior, findings(disease, symptoms, others[key] | ({key: choice} if choice else {})), image, cut) for choice in choices}
        for key, symptom in symptoms.items()
        if disease in symptom.present or disease in symptom.absent
    }
