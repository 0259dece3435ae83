"""What is said of a patient's risk, in words a clinician uses; no number is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.risk import Answer, Assessment, Bounds, Finding, ImageRatio, Level
from app.wording import Colour, of_1000, percent

INDEPENDENCE = (
    "The steps multiply the evidence as if the answers and the image were independent of each other once the disease is known. "
    "Where they tell the same thing twice, the result is more certain than it should be."
)
INTERVALS = (
    "An interval combines those of the ratios (95%) and the range over the models for the image. It takes the chance before as exact, and does not "
    "know how well the model's probabilities hold for your patients: the truth is less certain than it says."
)
EXAMPLE = "Ratios marked EXAMPLE have no source that anybody opened: they show the arithmetic, not a patient's risk."
#: Word, icon and colour of a level: never colour alone.
LEVEL: dict[Level, tuple[str, str, Colour]] = {
    "low": ("Low risk", ":material/arrow_downward:", "green"),
    "intermediate": ("Intermediate risk", ":material/remove:", "orange"),
    "high": ("High risk", ":material/arrow_upward:", "red"),
}


def level_word(level: Level, example: bool) -> str:
    """A level in words; marked where a ratio that led to it has no source."""
    return f"{LEVEL[level][0]}{' (by EXAMPLE ratios)' if example else ''}"


def plain_ratio(ratio: float) -> str:
    """A likelihood ratio in two or three digits, never in powers of ten: "0.031", "6.3", "210"."""
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.3g}" if ratio >= 0.0001 else f"{ratio:.6f}"


def times(ratio: float) -> str:
    """A likelihood ratio: "x 6.3"."""
    return f"× {plain_ratio(ratio)}"


def evidence(findings: Sequence[Finding], image: ImageRatio | None, n_positive: int) -> list[tuple[str, str, str, str]]:
    """A row per piece of evidence: what, its likelihood ratio, the ratio's interval, its source."""
    rows = []
    for found in findings:
        what = f"{found.question} {found.answer.capitalize()}"
        if found.ratio is None:
            rows.append((what, "unchanged", "", "the card has no ratio for this disease"))
        else:
            source = "EXAMPLE, no source opened" if found.example else found.ratio.source
            rows.append((what, times(found.ratio.value), f"{plain_ratio(found.ratio.low)} to {plain_ratio(found.ratio.high)}", source))
    if image is None:
        rows.append(("The image", "unchanged", "", "the calibration set has too few lesions to say what an image is worth"))
    else:
        source = f"this model, {n_positive:,} calibration lesions with it"
        if image.raw != image.value:
            source += "; limited to what they support"
        told = f"{plain_ratio(image.spread[0])} to {plain_ratio(image.spread[1])} over the models" if image.spread else "not known"
        rows.append(("The image", times(image.value), f"{told}; kept within {plain_ratio(image.low)} to {plain_ratio(image.high)}", source))
    return rows


def steps(result: Assessment) -> list[tuple[str, str, str, str]]:
    """A row per step of the risk: which, its chance, the chance's interval, and as a natural frequency. Where the image was worth more than
    calibration supports, its limit is no certainty, and the row says so."""
    held = "the image held at its limit" if result.image and result.image.value != result.image.raw else ""
    last = ", ".join(told for told in (between(result.after_image_interval), held) if told)
    return [
        ("Before", percent(result.prior), "as entered", of_1000(result.prior)),
        ("After the answers", percent(result.after_symptoms), between(result.after_symptoms_interval), of_1000(result.after_symptoms)),
        ("After the image", percent(result.after_image), last, of_1000(result.after_image)),
    ]


def between(bounds: Bounds) -> str:
    """The interval of a chance; empty where there is none."""
    return f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds[0] < bounds[1] else ""


def chance(p: float, bounds: Bounds) -> str:
    """A chance 0..1 with its interval: "3.4% (1.2% to 9%)"."""
    return f"{percent(p)} ({between(bounds)})" if between(bounds) else percent(p)


def told_ratio(ratio: Mapping[str, Any] | None, example: bool = False) -> str:
    """A likelihood ratio {value, interval} with its interval: "× 6 (2 to 18, EXAMPLE)"; None: it changes nothing."""
    if ratio is None:
        return "unchanged"
    told = [f"{plain_ratio(low)} to {plain_ratio(high)}" for low, high in [ratio["interval"]] if low < high] if ratio["interval"] else []
    told += ["EXAMPLE"] if example else []
    return f"{times(ratio['value'])} ({', '.join(told)})" if told else times(ratio["value"])


def reach(levels: Sequence[Level]) -> str:
    """What is said of an interval that goes over a cut-off, from the level of its lower end to that of its upper one."""
    return "" if levels[0] == levels[-1] else f"The interval reaches from {levels[0]} to {levels[-1]}. "


def changed_answers(
    questions: Mapping[str, str], answers: Mapping[str, Answer], found: Mapping[str, Mapping[Answer | None, Assessment]]
) -> list[tuple[str, str, str, str]]:
    """A row per question: the chance after the image if its answer were yes, no, or not asked; the one that holds now is marked."""

    def told(key: str, choice: Answer | None) -> str:
        one = found[key][choice]
        return f"{percent(one.after_image)}, {one.level}{' (now)' if answers.get(key) == choice else ''}"

    return [(questions[key], told(key, "yes"), told(key, "no"), told(key, None)) for key in found]
