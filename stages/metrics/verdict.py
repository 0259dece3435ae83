"""The verdict: does the candidate beat every control, beyond what seeds and lesions explain?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.metrics.classification import LEAST_LESIONS
from stages.metrics.intervals import interval

#: What each regime is, in the words of the report; the first five are the controls of the verdict.
WHAT = {
    "real": "real images alone",
    "weighted": "real images alone, the classes weighted in the loss",
    "duplicate": "real images, the rare ones repeated to the count that combined adds",
    "randaugment": "real images alone, under RandAugment",
    "logit_adjust": "the models of real, their logits shifted by the class prior of train (Menon et al. 2021), with real's temperature",
    "synth": "common classes real, rare classes synthetic only",
    "combined": "real images, and synthetic ones of the rare classes",
    "curriculum": "common classes real and rare classes synthetic first, then real images alone; in all as many steps",
    "oracle": "real images, and fresh real ones of the rare classes in place of combined's synthetic ones: the ceiling",
}
CONTROLS = ("real", "weighted", "duplicate", "randaugment", "logit_adjust")
AA, ORACLE = "aa", "oracle"
SCORES = {"rare_f1": "rare F1", "rare_ap": "rare AP"}
DIGITS = 6
Boots = Mapping[str, Mapping[str, NDArray[np.float64]]]
Difference = dict[str, dict[str, float]]


def difference(one: str, other: str, means: Mapping[str, Mapping[str, float]], boots: Boots) -> Difference:
    """Per score, `one` minus `other`: the difference of the means over seeds and its paired 95% bootstrap interval."""
    result = {}
    for score in SCORES:
        low, high = interval(boots[one][score].mean(1) - boots[other][score].mean(1))
        diff = means[one][score] - means[other][score]
        result[score] = {"diff": round(float(diff), DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS)}
    return result


def over_zero(found: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the lower bound is over zero for both scores."""
    return all(found[score]["low"] > 0 for score in SCORES)


def differs(aa: Mapping[str, Mapping[str, float]] | None) -> bool:
    """Whether A/A, where it was run, shows a difference on both scores: then the seeds are no measure of chance."""
    return aa is not None and (over_zero(aa) or all(aa[score]["high"] < 0 for score in SCORES))


def share(candidate: str, means: Mapping[str, Mapping[str, float]], boots: Boots) -> dict[str, dict[str, float] | None] | None:
    """Per score, (candidate - real) / (oracle - real): the share of the oracle's gain that the candidate recovers (1 is all), with
    the paired 95% bootstrap interval of the ratio. None for a score on which the oracle's gain has no lower bound over zero; None for
    all where there is no oracle, or no such score.
    """
    if ORACLE not in boots:
        return None
    gain = difference(ORACLE, "real", means, boots)
    found: dict[str, dict[str, float] | None] = dict.fromkeys(SCORES)
    for score in (score for score in SCORES if gain[score]["low"] > 0):
        real = boots["real"][score].mean(1)
        whole, part = boots[ORACLE][score].mean(1) - real, boots[candidate][score].mean(1) - real
        low, high = interval(part / np.where(whole == 0, np.finfo(float).eps, whole))
        value = (means[candidate][score] - means["real"][score]) / gain[score]["diff"]
        found[score] = {"value": round(float(value), DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS)}
    return found if any(found.values()) else None


def decide(
    candidate: str,
    seeds: Sequence[int],
    n_lesions: NDArray[np.int64],
    rare: Sequence[int],
    means: Mapping[str, Mapping[str, float]],
    boots: Boots,
    min_seeds: int,
) -> dict[str, Any]:
    """verdict.json. `n_lesions` (C,) test lesions per class; `means` and `boots` by regime, with the key "aa" where real's second seeds exist.

    `helps` needs the lower bound over zero against every control on both scores, at least `min_seeds` seeds, 30 test
    lesions of each rare class, and no A/A that differs on both scores. A control that was left out of training is null, and
    `statement` names it. `oracle_share` as in `share`, `controls_share` the same of each control but real.
    """
    controls = {name: difference(candidate, name, means, boots) if name in boots else None for name in CONTROLS}
    enough = len(seeds) >= min_seeds and all(n_lesions[c] >= LEAST_LESIONS for c in rare)
    aa = difference(AA, "real", means, boots) if AA in boots else None
    return {
        "candidate": candidate,
        "seeds": list(seeds),
        "n_test_lesions": int(n_lesions.sum()),
        "helps": enough and not differs(aa) and all(over_zero(found) for found in controls.values() if found),
        "controls": controls,
        "aa": aa,
        "oracle_share": share(candidate, means, boots),
        "controls_share": {name: share(name, means, boots) for name in CONTROLS[1:] if name in boots},
    }


def statement(verdict: Mapping[str, Any], fewest: int, min_seeds: int) -> str:
    """The answer in words; `fewest` is the number of test lesions of the smallest rare class."""
    if len(verdict["seeds"]) < min_seeds:
        return f"not enough seeds ({len(verdict['seeds'])} of {min_seeds}), no claim"
    if fewest < LEAST_LESIONS:
        return f"no claim: too few lesions ({fewest} of {LEAST_LESIONS} in the smallest rare class)"
    if differs(verdict["aa"]):
        return "no claim: real against real differs"
    if not verdict["helps"]:
        beaten = {name: [SCORES[k] for k in SCORES if found[k]["high"] < 0] for name, found in verdict["controls"].items() if found}
        lost = [f"{name} ({' and '.join(labels)})" for name, labels in beaten.items() if labels]
        return "no evidence that synthesis helps" + (f", and it is worse than {', '.join(lost)}" if lost else "")
    untold = [name for name in CONTROLS if verdict["controls"][name] is None]
    return "synthesis helps" + (f" (not compared with {', '.join(untold)})" if untold else "")


def aa_statement(verdict: Mapping[str, Any]) -> str:
    """What real against real shows, by the verdict's own rule (both scores); it must be nothing. A single score beyond zero is named."""
    found, what = verdict["aa"], "A/A, real against real with other seeds"
    if found is None:
        return "A/A, real against real: not run (train_real.aa_seeds is empty)."
    if differs(found):
        return f"{what}: shows a difference on both scores where there is none. Chance or too few seeds; do not rely on this verdict."
    lone = [f"{label}, {signed(found[score])}" for score, label in SCORES.items() if found[score]["low"] > 0 or found[score]["high"] < 0]
    if lone:
        return f"{what}: no evidence of a difference on both scores, but {lone[0]} leaves zero out: seeds vary more than so few of them tell."
    return f"{what}: no evidence of a difference, as it must be."


def oracle_statement(verdict: Mapping[str, Any], reason: str | None = None) -> str:
    """How much of the oracle's gain the candidate recovers; `reason` says why there is no oracle, where there is none."""
    if reason:
        return f"No oracle: {reason}. So nobody can say how much better fresh real images would have been."
    found = verdict["oracle_share"]
    if found is None:
        return "The oracle's share is not given: fresh real images in place of the synthetic ones show no gain over real beyond zero."
    told = [
        f"{label} {e['value']:.0%} ({e['low']:.0%} to {e['high']:.0%})"
        if (e := found[score])
        else f"{label} not given, as the oracle gains nothing beyond zero"
        for score, label in SCORES.items()
    ]
    others = []
    for name, own in verdict.get("controls_share", {}).items():
        if own:
            both = [f"{e['value']:.0%}" if (e := own[score]) else "-" for score in SCORES]
            others.append(f"`{name}` {' / '.join(both)}")
    said = f"Share of the oracle's gain over real (fresh real images in place of the synthetic ones) that `{verdict['candidate']}` recovers: {'; '.join(told)}."
    if others:
        said += f" Without any synthetic image: {', '.join(others)} (rare F1 / rare AP), so only what lies beyond these is due to the images."
    return said


def number(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def signed(entry: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{entry['diff']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"


def score_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """The table of regimes (metrics/<regime>.json by regime), controls first."""
    keys = ("rare_f1", "rare_ap", "macro_f1", "accuracy", "ece")
    head = ["regime", "rare F1", "rare AP", "macro F1", "accuracy", "ECE"]
    return [head, *([name, *(number(metrics[name][key]) for key in keys)] for name in WHAT if name in metrics)]


def difference_rows(verdict: Mapping[str, Any]) -> list[list[str]]:
    """The candidate minus each control, and A/A, with intervals."""
    rows = [["difference", *SCORES.values()]]
    pairs = [(f"{verdict['candidate']} minus {name}", verdict["controls"][name]) for name in CONTROLS if verdict["controls"][name]]
    if verdict["aa"] is not None:
        pairs.append(("A/A: real minus real", verdict["aa"]))
    return rows + [[name, *(signed(found[score]) for score in SCORES)] for name, found in pairs]
