"""What is said of a model's result on an image, in words a clinician uses; no number is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.measured import Share
from app.wording import FEW, Colour, heading, listed, of_100, of_1000, span
from stages.classifier.prediction import Presence

#: Word, icon and colour of an answer: never colour alone.
PRESENCE: dict[Presence, tuple[str, str, Colour]] = {
    "yes": ("Present", ":material/add_circle:", "red"),  # a screen reader reads the icon's name: no "error"
    "no": ("Not present", ":material/check_circle:", "green"),
    "cannot say": ("Cannot say", ":material/help:", "orange"),
}
NO_PROOF = (
    "The map shows where small changes would move the answer most. It is no proof that the model looks at the disease, "
    "nor that it is right: maps look convincing for wrong answers too."
)
COVERS = (
    "Such a list covers the true diagnosis in that share of patients on average, whatever the diagnosis, "
    "for patients like those in the calibration set. It promises nothing for others."
)
MIX = "“Like this” means: scored the same by the model, in a population with the mix of diagnoses of the calibration set."
ALIKE = "Alike to the model, not to a dermatologist's or radiologist's eye. Their diagnoses say nothing certain about this image."


def frequency(p: float, title: str, low: float, high: float, models: int, prior: float) -> str:
    """What a calibrated probability says, with the range over the ensemble, and for which mix of patients: `prior` is the disease's share of cal."""
    count = of_1000(p).removesuffix(" of 1,000")
    text = (
        f"Of 1,000 images like this, **{count}** have the diagnosis {title}, where {of_1000(prior)} patients have it. For yours see the risk below."
    )
    if models == 1:
        return text
    told = span(low, high)
    return f"{text} The {models} models {f'say {told}' if ' to ' in told else 'agree'}."


def tested(title: str, found: Mapping[str, Share | None], answer: Presence) -> str:
    """How often the model gives such an `answer` on the sealed test images, to lesions with the disease and without."""
    if not found:
        return "This model has not been tested: build the reports to know how often it is right."
    hit, spared, missed, out = (found[name] for name in ("sensitivity", "specificity", "missed", "ruled_out"))
    yes = [
        f"it calls {of_100(hit)} of 100 lesions with {title} present (sensitivity)"
        if hit
        else f"too few lesions with {title} to say how many it finds",
        f"and rightly not {of_100(spared)} of 100 without (specificity)" if spared else "too few without to say how many it rightly does not call so",
    ]
    no = [
        f"it calls {of_100(missed)} of 100 lesions with {title} not present (missed)"
        if missed
        else f"too few lesions with {title} to say how many it misses",
        f"and rightly so {of_100(out)} of 100 without" if out else "too few without to say how many it rules out",
    ]
    told = {"yes": yes, "no": no, "cannot say": yes + no}[answer]
    return f"On test images: {'; '.join(told)}. Brackets: 95% interval, lesions."


def right(answer: Presence, value: tuple[float, float, float] | None, prevalence: float) -> str:
    """The predictive value of "present" or "not present" at the entered prevalence 0..1."""
    said = PRESENCE[answer][0].lower()
    if value is None:
        return f"How often “{said}” is right is not known: too few lesions were tested, or none of them was told so."
    mid, low, high = value
    among = f"Among such patients ({of_1000(prevalence)} with it) “{said}” is right for **{of_1000(mid)}**"
    return f"{among} who are told so ({span(low, high)}), sure cases and doubtful ones together."


def held(found: Mapping[str, Share], titles: Mapping[str, str]) -> str:
    """How often a conformal list held the diagnosis on test, where it did so least; `found` by class key, one or more."""
    least = min(found, key=lambda name: found[name].value)
    return f"On test images such a list held the true diagnosis least often for {titles[least]}: {of_100(found[least])} of 100."


def reconciled(coverage: str, names: Sequence[str], titles: Mapping[str, str]) -> str:
    """Why diseases (`names`) stand in the list at `coverage` that are called not present."""
    called = listed([titles[name] for name in names], "and")
    return f"Called not present, and not excluded at {100 * float(coverage):.0f}%: {called}. The list is the more careful of the two rules."


def refusal_rates(record: Mapping[str, Any], measured: Mapping[str, Share | None], titles: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Per class, how often the model will not speak on an image of its kind: title, in cal, on test."""
    rows = []
    for name, cal in record["cal"].items():
        here = f"{cal['refused']} of {cal['n']:,}" if cal["n"] else "none there"
        on_test = measured.get(name)
        rows.append((heading(titles[name]), here, f"{of_100(on_test)} of 100" if on_test else "not measured"))
    return rows


def basis(limits: Mapping[str, float]) -> str:
    """On how many calibration lesions a disease's thresholds stand."""
    n, m = int(limits["n_positive"]), int(limits["n_negative"])
    present = f"“Present” from {of_1000(limits['present'])} on" if limits["present"] <= 1 else "“Present” is never said"
    absent = f"“not present” under {of_1000(limits['absent'])}" if limits["absent"] > 0 else "“not present” is never said"
    text = f"{present}, {absent}; set on {n:,} lesions with it and {m:,} without."
    if n < FEW:
        text += f" {n} are too few to claim a sensitivity."
    return text


def conformal(coverage: str, names: Sequence[str] | None, titles: Mapping[str, str]) -> str:
    """A conformal set in words; `coverage` such as "0.90"."""
    share = f"{100 * float(coverage):.0f}%"
    if names is None:
        return f"**{share}**: not offered, the calibration set holds too few lesions of some diagnosis."
    if not names:
        return f"**{share}**: no diagnosis of the list fits this image. Refer."
    if len(names) == len(titles):
        return f"**{share}**: the image excludes no diagnosis of the list. Refer."
    return f"**{share}**: {'only this remains' if len(names) == 1 else 'one of'}: {listed([titles[n] for n in names])}."
