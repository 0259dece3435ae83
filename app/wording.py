"""What the page says, in words a clinician uses; no number is made here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.measured import Share
from app.risk import Answer, Assessment, Finding, ImageRatio, Level
from stages.classifier.prediction import Presence
from stages.dataset.card import Card

Colour = Literal["red", "green", "orange"]
NOTICE = "Decision support, not a diagnosis."
PHANTOM = "Trained on drawings, no use on patients."
INDEPENDENCE = (
    "The steps multiply the evidence as if the answers and the image were independent of each other once the disease is known. "
    "Where they tell the same thing twice, the result is more certain than it should be."
)
INTERVALS = (
    "An interval combines those of the ratios (95%) and the range over the models for the image. It takes the chance before as exact, and does not "
    "know how well the model's probabilities hold for your patients: the truth is less certain than it says."
)
EXAMPLE = "Ratios marked EXAMPLE have no source that anybody opened: they show the arithmetic, not a patient's risk."
#: Word, icon and colour of an answer: never colour alone.
PRESENCE: dict[Presence, tuple[str, str, Colour]] = {
    "yes": ("Present", ":material/error:", "red"),
    "no": ("Not present", ":material/check_circle:", "green"),
    "cannot say": ("Cannot say", ":material/help:", "orange"),
}
LEVEL: dict[Level, tuple[str, str, Colour]] = {
    "low": ("Low risk", ":material/arrow_downward:", "green"),
    "intermediate": ("Intermediate risk", ":material/remove:", "orange"),
    "high": ("High risk", ":material/arrow_upward:", "red"),
}
NO_PROOF = (
    "The map shows where small changes would move the answer most. It is no proof that the model looks at the disease, "
    "nor that it is right: maps look convincing for wrong answers too."
)
ALIKE = "Alike to the model, not to a dermatologist's or radiologist's eye. Their diagnoses say nothing certain about this image."
GENERATED = "AI-generated"
NO_PATIENT = "Every image marked **AI-generated** was drawn by a diffusion model. None shows a patient, none is fit for a diagnosis."
#: Why a synthetic image was rejected (stages.diffusion.selection), and how one was begun (stages.diffusion.sampling).
REASONS = {
    "judge": "the judge does not see what was asked for",
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
FEW = 30  # under this many lesions with the disease, no claim on sensitivity


def plain(text: str) -> str:
    """`text` with every sign that Markdown would read escaped: file names and reasons come from outside."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:&" else " " if c in "\r\n" else c for c in text)


def of_1000(p: float) -> str:
    """A probability 0..1 as a natural frequency: "3 of 1,000"."""
    count = round(1000 * p)
    if count == 0:
        return "fewer than 1 of 1,000"
    if count == 1000:
        return "more than 999 of 1,000"
    return f"{count:,} of 1,000"


def span(low: float, high: float) -> str:
    """A range of probabilities as counts of 1,000."""
    first, last = round(1000 * low), round(1000 * high)
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def percent(p: float) -> str:
    """A probability 0..1 in percent, three significant digits; never rounded to a certainty."""
    return "over 99.99%" if p > 0.9999 else f"{100 * p:.2f}%" if p > 0.99 else f"{100 * p:.3g}%" if p >= 0.0001 else "under 0.01%"


def heading(title: str) -> str:
    """A title with a capital first letter (str.capitalize would write "mri")."""
    return title[:1].upper() + title[1:]


def times(ratio: float) -> str:
    """A likelihood ratio: "x 6.3"."""
    return f"× {ratio:.3g}" if ratio < 1000 else f"× {ratio:,.0f}"


def listed(names: Sequence[str]) -> str:
    """a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def frequency(p: float, title: str, low: float, high: float, models: int) -> str:
    """What a calibrated probability says, with the range over the ensemble."""
    text = f"Of 1,000 images like this, **{of_1000(p).removesuffix(' of 1,000')}** have the diagnosis {title}."
    if models == 1:
        return text
    told = span(low, high)
    return f"{text} The {models} models {f'say {told}' if ' to ' in told else 'agree'}."


def of_100(one: Share) -> str:
    """A measured share as a natural frequency with its interval and n: "64 (58 to 70; n = 210)"."""
    low, high = round(100 * one.low), round(100 * one.high)
    return f"{round(100 * one.value)} ({low} to {high}; n = {one.n:,})"


def tested(title: str, found: Mapping[str, Share | None]) -> str:
    """Sensitivity and specificity of "present" on the sealed test images."""
    if not found:
        return "This model has not been tested: build the reports to know how often it is right."
    hit, spared = found["sensitivity"], found["specificity"]
    sick = f"it found {of_100(hit)} of 100 lesions with {title} (sensitivity)" if hit else f"too few lesions with {title} to say how many it finds"
    well = f"it rightly left out {of_100(spared)} of 100 without (specificity)" if spared else "too few without to say how many it rightly leaves out"
    return f"On test images: {sick}; {well}. Brackets: 95% interval, lesions."


def right(answer: Presence, value: tuple[float, float, float] | None, prevalence: float) -> str:
    """The predictive value of an answer at the entered prevalence 0..1."""
    if answer == "cannot say":
        return ""
    said = PRESENCE[answer][0].lower()
    if value is None:
        return f"How often “{said}” is right is not known: too few lesions were tested."
    mid, low, high = value
    return f"Among such patients ({of_1000(prevalence)} with it) “{said}” is right for **{of_1000(mid)}** who are told so ({span(low, high)})."


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
    return f"**{share}**: {'' if len(names) == 1 else 'one of: '}{listed([titles[n] for n in names])}."


def evidence(findings: Sequence[Finding], image: ImageRatio | None, n_positive: int) -> list[tuple[str, str, str, str]]:
    """A row per piece of evidence: what, its likelihood ratio, the ratio's interval, its source."""
    rows = []
    for found in findings:
        what = f"{found.question} {found.answer.capitalize()}"
        if found.ratio is None:
            rows.append((what, "unchanged", "", "the card has no ratio for this disease"))
        else:
            source = "EXAMPLE, no source opened" if found.example else found.ratio.source
            rows.append((what, times(found.ratio.value), f"{found.ratio.low:g} to {found.ratio.high:g}", source))
    if image is None:
        rows.append(("The image", "unchanged", "", "the calibration set has too few lesions to say what an image is worth"))
    else:
        source = f"this model, {n_positive:,} calibration lesions with it"
        if image.raw != image.value:
            source += "; limited to what they support"
        told = f"{image.spread[0]:.2g} to {image.spread[1]:.2g} over the models" if image.spread else "not known"
        rows.append(("The image", times(image.value), f"{told}; kept within {image.low:.2g} to {image.high:,.0f}", source))
    return rows


def steps(result: Assessment) -> list[tuple[str, str, str, str]]:
    """A row per step of the risk: which, its chance, the chance's interval, and as a natural frequency."""
    rows = [("Before", percent(result.prior), "as entered", of_1000(result.prior))]
    for name, p, bounds in (
        ("After the answers", result.after_symptoms, result.after_symptoms_interval),
        ("After the image", result.after_image, result.after_image_interval),
    ):
        rows.append((name, percent(p), f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds[0] < bounds[1] else "", of_1000(p)))
    return rows


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
    return f"{GENERATED}: {reason(rejected)}, {said}{again}" if rejected else f"{GENERATED}: {said}{again}"


def duration(seconds: float) -> str:
    """A time to wait, roughly."""
    return "a few seconds" if seconds < 10 else f"{round(seconds / 10) * 10} seconds" if seconds < 95 else f"{round(seconds / 60)} minutes"


def intended(card: Card) -> list[str]:
    """What the page is for."""
    if card.phantom:
        return ["To show how rarelens works, and to teach. The images are drawings."]
    return [
        f"Research and teaching on {card.modality} images, read by a clinician who examines the patient.",
        f"It tells apart {len(card.classes)} diagnoses and knows no other: {listed([c.title for c in card.classes.values()])}.",
    ]


def must_not(card: Card, base: Mapping[str, Any]) -> list[str]:
    """What the page must not be used for."""
    lines = [
        "To make or exclude a diagnosis, or to decide on a biopsy or a treatment.",
        "By patients on themselves.",
        f"On images of another kind than {card.modality}, or of a diagnosis outside the list: the model answers all the same.",
    ]
    if card.phantom:
        lines.insert(0, "On any patient.")
    if "stable-diffusion-v1" in str(base.get("source", "")):
        lines.append(
            "The synthetic images come from Stable Diffusion 1.5, whose licence (CreativeML OpenRAIL-M, Attachment A) forbids "
            "use of the model and its derivatives to give medical advice or to interpret medical results."
        )
    return lines
