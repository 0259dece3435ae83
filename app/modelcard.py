"""The model's card: what it is, what it was tested on and what it is worth, from tracked artifacts; and which items of reporting guidelines are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from app import measured, wording
from app.artifacts import Place
from stages.dataset.card import Card

Met = Literal["met", "in part", "not met"]
#: The settings of model.json that the card tells, in words.
TRAINING = {
    "steps": "steps",
    "batch": "images a step",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "loss": "loss",
    "frozen_stages": "frozen stages",
}


class Item(NamedTuple):
    """An item of a reporting guideline, whether this repository meets it, and where or why not."""

    guideline: str
    item: str
    met: Met
    where: str


def facts(card: Card, info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the model is, as name and value."""
    training = info.get("training", {})
    counts = ", ".join(f"{entry.title} {info['n_cal'][key]:,}" for key, entry in card.classes.items())
    return [
        ("Data", f"{card.title}; licence {card.licence}; {card.citation}"),
        ("Diagnoses", wording.listed([entry.title for entry in card.classes.values()], "and")),
        ("Rare diseases", wording.listed([card.classes[key].title for key in info["rare"]], "and")),
        ("Network", f"{info['backbone']}, {len(info['seeds'])} of them from different seeds, {info['transform']['size']} px"),
        (
            "Training",
            ", ".join(f"{what} {training[key]}" for key, what in TRAINING.items() if key in training) or "not recorded",
        ),
        ("Calibrated on (lesions)", counts),
    ]


def performance(place: Place, regime: str, card: Card) -> list[tuple[str, str, str]]:
    """Per rare disease: sensitivity and specificity of "present" on the sealed test images, in words."""
    rows = []
    for disease, found in sorted(measured.shares(place, regime).items()):
        sensitivity, specificity = (
            f"{wording.of_100(one)} of 100" if one else "too few lesions" for one in (found["sensitivity"], found["specificity"])
        )
        rows.append((wording.heading(card.classes[disease].title), sensitivity, specificity))
    return rows


def grouped(place: Place, regime: str) -> Met:
    """Whether test could tell how the regime does in groups of patients: "in part" where a group has too few lesions, of all or of a rare disease."""
    if not any(measured.subgroups(place, regime).values()):
        return "not met"
    found = measured.found_in_groups(place, regime)
    return "met" if all(share for groups in found.values() for one in groups.values() for share in one.values()) else "in part"


def items(card: Card, info: Mapping[str, Any], tested: bool, grouped: Met, external: Sequence[str], audited: bool) -> list[Item]:
    """Items of CLAIM 2024 (Tejani et al.) and TRIPOD+AI (Collins et al. 2024), in short words.

    `tested` and `audited`: those reports are there; `grouped`: whether test could tell of groups of patients; `external` are the other data sets
    that it was tested on.
    """
    tripod, claim = "TRIPOD+AI", "CLAIM 2024"
    patients: Met = "not met" if card.phantom else "in part"
    return [
        Item(
            tripod,
            "Source of the data, dates, setting",
            patients,
            "drawings, no patients" if card.phantom else "the dataset card names the source only",
        ),
        Item(tripod, "Eligibility and flow of participants", patients, "Data: every file is used or set aside with a reason"),
        Item(tripod, "How the outcome was established", "not met", "the data set's labels are taken as they are"),
        Item(tripod, "Sample size justified", "in part", "intervals are given, and no claim under 30 lesions; no calculation beforehand"),
        Item(tripod, "Missing data", "met", "Data: known and missing values of each attribute"),
        Item(tripod, "Class imbalance and how it was met", "met", "Compare regimes: weights, duplicates, RandAugment, logit adjustment, synthesis"),
        Item(
            tripod,
            "Data for development and evaluation kept apart",
            "met",
            "split by lesion before anything is learned; checked by hash at each start",
        ),
        Item(
            tripod,
            "Calibration and discrimination with intervals",
            "in part" if tested else "not met",
            "Compare regimes: scores, sensitivity and specificity have intervals, the calibration error has none",
        ),
        Item(
            tripod,
            "Fairness: performance in subgroups",
            grouped,
            {
                "met": "Compare regimes",
                "in part": "Compare regimes; some groups have too few lesions of a rare disease",
                "not met": "no attribute with a group of 30 lesions or more was tested",
            }[grouped],
        ),
        Item(tripod, "Full model and code available", "met", "weights and code by hash, rebuilt by `dvc repro`"),
        Item(
            tripod,
            "Protocol and registration",
            "in part",
            "primary outcome and candidate are fixed in params.yaml before test is read; not registered",
        ),
        Item(tripod, "Ethical approval, patient involvement", "not met", "none was sought"),
        Item(tripod, "Handling of poor or foreign input", "met" if "ood" in info else "not met", "Read an image: refusals and their rates"),
        Item(claim, "De-identification", "met", "metadata dropped; burned-in text is looked for"),
        Item(claim, "Definition of the reference standard", "not met", "taken from the data set"),
        Item(
            claim,
            "External testing",
            "met" if external else "not met",
            f"Compare regimes: {', '.join(external)}" if external else "one data set only",
        ),
        Item(claim, "Explanation of the model", "in part", "a map (LayerCAM) and similar images; neither is validated with readers"),
        Item(claim, "Failure analysis", "in part", "Compare regimes: confusion matrices"),
        Item(
            claim, "Synthetic images: how they were made and judged", "met" if audited else "in part", "Synthetic images: accepted, rejected, reasons"
        ),
    ]
