"""What the page says of regimes, scores and figures, for those who do not build models; no number is made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app import wording
from app.measured import Share
from stages.metrics.verdict import WHAT

#: What each regime is where the report's own words (stages.metrics.verdict.WHAT) are for those who build models.
REGIMES = {
    "weighted": "real images alone; a mistake on a rare diagnosis counts for more while it learns",
    "randaugment": "real images alone, distorted at random while it learns (RandAugment)",
    "logit_adjust": "the models of real, their answers shifted afterwards as if every diagnosis had been equally common in training",
    "curriculum": "the common diagnoses real and the rare ones synthetic first, then real images alone",
    "synth": "the common diagnoses real, the rare ones synthetic only",
    "oracle": "real images, and fresh real ones in place of the synthetic ones: the best that more images can do",
}
REGIME = "A regime is one way to teach the model. All have the same network and number of steps, and all are tested on the same sealed images."
CONTROLS = (
    "A dot is how much better (right of zero) or worse (left) the candidate scores than a regime without synthetic images, the line its 95% interval. "
    "Synthesis helps only if every line but the last lies right of zero. A/A compares real with itself and must touch zero."
)
SCORES = (
    "**Rare F1** weighs missed lesions against false alarms when the model names one diagnosis: 1 is no mistake, 0 is none found. "
    "**Rare average precision** asks how well lesions with the disease are ranked before the others, wherever the threshold lies: 1 is perfect. "
    "Both are means over the rare diseases; brackets: 95% interval."
)
#: The figures of the comparison, by name: a title, and what to see in them.
FIGURES = {
    "regimes": ("Every regime with its 95% interval", "Higher is better; where two lines overlap widely, chance may explain the difference."),
    "roc": (
        "Found lesions against false alarms (ROC)",
        "Upright (sensitivity): the share of lesions with the disease that are found. Across (1 - specificity): the share of the others that are taken for it. "
        "A curve nearer the upper left corner is better.",
    ),
    "pr": (
        "How many alarms are right (precision and recall)",
        "Upright (positive predictive value): the share of alarms that are right. Across (sensitivity): the share of lesions with the disease that are found. "
        "A curve nearer the upper right corner is better.",
    ),
    "reliability": (
        "Does it keep what it promises? (reliability)",
        "Across: how sure the model was. Upright: how often it was right. On the dashed line, of 100 answers given with 80% certainty 80 are right.",
    ),
    "confusion": ("Which diagnosis is taken for which", "A row is the true diagnosis, a column what the model named; on the diagonal it was right."),
}
#: The scores beside the two that decide (stages.metrics), in words.
OTHERS = {
    "accuracy": "Right at the first guess",
    "balanced_accuracy": "The same, mean over diagnoses",
    "macro_f1": "F1, mean over diagnoses",
    "ece": "Calibration error (ECE)",
}


def regime(name: str) -> str:
    """What a regime was trained on; "" for one that nobody described."""
    return REGIMES.get(name, WHAT.get(name, ""))


def keys(titles: Mapping[str, str]) -> str:
    """What the short names of diagnoses in figures stand for."""
    return f"Short names: {', '.join(f'{key} is {title}' for key, title in titles.items())}."


def taken_for(counts: Mapping[str, Mapping[str, int]], diseases: Sequence[str], titles: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Per disease, from a confusion matrix (true, named, images): the disease, how many are named right, what the most others are taken for."""
    rows = []
    for disease in diseases:
        named = counts[disease]
        wrong = sorted((name for name in named if name != disease and named[name]), key=lambda name: -named[name])[:2]
        others = ", ".join(f"{titles[name]} ({named[name]:,})" for name in wrong) or "none"
        rows.append((wording.heading(titles[disease]), f"{named[disease]:,} of {sum(named.values()):,}", others))
    return rows


def gap(attribute: str, what: str, known: Mapping[str, Share]) -> str:
    """The widest gap between the groups of an attribute in a share that `what` names; "" where fewer than two are known."""
    if len(known) < 2:
        return ""
    low, high = min(known, key=lambda group: known[group].value), max(known, key=lambda group: known[group].value)
    points = round(100 * (known[high].value - known[low].value))
    return f"{what}: {attribute.replace('_', ' ')} {points} points ({low} below {high})"
