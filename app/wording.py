"""What every view of the page says, in words a clinician uses: notices, numbers, intended use; no number is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from app.measured import Share
from stages.dataset.card import Card

Colour = Literal["red", "green", "orange"]
NOTICE = "Decision support, not a diagnosis."
PHANTOM = "Trained on drawings, no use on patients."
FEW = 30  # under this many lesions with the disease, no claim on sensitivity


def plain(text: str) -> str:
    """`text` with every sign that Markdown would read escaped: file names and reasons come from outside."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~$:&" else " " if c in "\r\n" else c for c in text)


def thousandths(p: float) -> int:
    """A probability 0..1 in whole thousandths; what lies half-way goes to the even one, whether or not a calculation left it a hair beside."""
    return round(round(1000 * p, 6))


def of_1000(p: float) -> str:
    """A probability 0..1 as a natural frequency: "3 of 1,000"."""
    count = thousandths(p)
    if count == 0:
        return "fewer than 1 of 1,000"
    if count == 1000:
        return "more than 999 of 1,000"
    return f"{count:,} of 1,000"


def span(low: float, high: float) -> str:
    """A range of probabilities as counts of 1,000; its ends are no more rounded to a certainty than one number is."""
    first, last = (
        "under 1" if p and not n else "over 999" if p < 1 and n == 1000 else f"{n:,}" for p, n in ((p, thousandths(p)) for p in (low, high))
    )
    return first if first == last else f"{first} to {last}"


def percent(p: float) -> str:
    """A probability 0..1 in percent, three significant digits; never rounded to a certainty."""
    return "over 99.99%" if p > 0.9999 else f"{100 * p:.2f}%" if p > 0.99 else f"{100 * p:.3g}%" if p >= 0.0001 else "under 0.01%"


def heading(title: str) -> str:
    """A title with a capital first letter (str.capitalize would write "mri")."""
    return title[:1].upper() + title[1:]


def listed(names: Sequence[str], last: Literal["or", "and"] = "or") -> str:
    """a, b or c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def of_100(one: Share) -> str:
    """A measured share as a natural frequency with its interval and n: "64 (58 to 70; n = 210)"."""
    value, low, high = ("over 99" if 0.99 < p < 1 and round(100 * p) == 100 else f"{100 * p:.0f}" for p in (one.value, one.low, one.high))
    return f"{value} ({low} to {high}; n = {one.n:,})"


def of_100_or_few(one: Share | None) -> str:
    """`of_100`, or that test has too few."""
    return of_100(one) if one else "too few"


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
        f"On images of another kind than {card.modality}, or of a diagnosis outside the list: the model may answer all the same.",
    ]
    if card.phantom:
        lines.insert(0, "On any patient.")
    if "stable-diffusion-v1" in str(base.get("source", "")):
        lines.append(
            "The synthetic images come from Stable Diffusion 1.5, whose licence (CreativeML OpenRAIL-M, Attachment A) forbids "
            "use of the model and its derivatives to give medical advice or to interpret medical results."
        )
    return lines
