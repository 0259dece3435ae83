"""What the model's answers were worth on the sealed test images, from the tracked report, and what that means at another prevalence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.artifacts import Place, tested
from stages.classifier.prediction import Presence, Result, presence
from stages.runtime.files import read_json


@dataclass(frozen=True)
class Share:
    """A share 0..1 of `n` test lesions with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


#: What was counted on test at the cut-offs of "present" and "not present" (stages.metrics.classification.at_thresholds).
SHARES = ("sensitivity", "specificity", "missed", "ruled_out")


def detail(place: Place, regime: str) -> dict[str, Any]:
    """All that was measured of a regime on test, detail/<regime>.json; empty when it was not evaluated since it was trained."""
    path = place.reports / "detail" / f"{regime}.json"
    found: dict[str, Any] = read_json(path) if path.exists() and tested(place, regime) else {}
    return found


def shares(place: Place, regime: str) -> dict[str, dict[str, Share | None]]:
    """Per rare disease: its SHARES; None where test has too few.

    Empty when the regime was not evaluated.
    """
    told = detail(place, regime).get("thresholds", {})
    return {disease: {name: share(found[name]) for name in SHARES} for disease, found in told.items()}


def refused(place: Place, regime: str) -> dict[str, Share | None]:
    """Per class, the share of test images on which the model would not speak; empty when it was not measured."""
    told = detail(place, regime).get("refused", {})
    return {name: share(found) for name, found in told.items()}


def subgroups(place: Place, regime: str) -> dict[str, dict[str, Share]]:
    """Per attribute and group of patients, how often the first guess is right; without the groups in which test has too few."""
    told = detail(place, regime).get("subgroups", {})
    return {name: {group: found for group, one in groups.items() if (found := share(one["accuracy"]))} for name, groups in told.items()}


def found_in_groups(place: Place, regime: str) -> dict[str, dict[str, dict[str, Share | None]]]:
    """Per attribute and group of patients, the share of each rare disease's test lesions that is named first; None where a group has too few."""
    told = detail(place, regime).get("subgroups", {})
    return {name: {group: {d: share(x) for d, x in one.get("recall", {}).items()} for group, one in groups.items()} for name, groups in told.items()}


def covered(place: Place, regime: str, coverage: str) -> dict[str, Share]:
    """Per diagnosis, the share of test lesions whose conformal set at `coverage` ("0.90") held it; without those of which test has too few."""
    told = detail(place, regime).get("conformal", {}).get(coverage) or {}
    return {name: one for name, found in told.get("covered", {}).items() if (one := share(found))}


def shortcuts(place: Place) -> list[str]:
    """What the data report warns of: that a model can score well on these data without seeing the disease."""
    report = place.reports / "data.json"
    found = read_json(report)["shortcut"].values() if report.exists() else []
    return [one["warning"] for one in found if one.get("warning")]  # a report made before the audit has none


def share(found: Mapping[str, Any]) -> Share | None:
    """A proportion of the report; None when it says "too few"."""
    return None if isinstance(found["value"], str) else Share(found["value"], found["low"], found["high"], found["n"])


def predictive(hit: Share, false: Share, prevalence: float) -> tuple[float, float, float] | None:
    """Of those who get an answer, the share for whom it is right, with its bounds, by Bayes: `hit` gets it where it is right, `false` where not.
    None where nobody on test got it.

    `prevalence` 0..1 is the share of patients for whom it is right. The bounds take both intervals at their ends, so they are wide.
    """

    def bayes(right: float, wrong: float) -> float:
        got = prevalence * right + (1 - prevalence) * wrong
        return prevalence * right / got if got else 0.0

    if not hit.value and not false.value:
        return None
    return bayes(hit.value, false.value), bayes(hit.low, false.high), bayes(hit.high, false.low)


def complement(one: Share) -> Share:
    """The rest of a share."""
    return Share(1 - one.value, 1 - one.high, 1 - one.low, one.n)


def firm(answer: Presence) -> tuple[Presence, ...]:
    """The answers whose worth is told beside `answer`: itself, or both that could be, where the model cannot say."""
    return ("yes", "no") if answer == "cannot say" else (answer,)


def value_of_answer(answer: Presence, found: Mapping[str, Share | None], prevalence: float) -> tuple[float, float, float] | None:
    """How often "present" or "not present" is right where the disease has that `prevalence`; None for cannot say, or where test has too few or none got it."""
    if answer == "yes" and (hit := found.get("sensitivity")) and (spared := found.get("specificity")):
        return predictive(hit, complement(spared), prevalence)
    if answer == "no" and (right := found.get("ruled_out")) and (missed := found.get("missed")):
        return predictive(right, missed, 1 - prevalence)
    return None


def not_excluded(result: Result, coverage: str) -> list[str]:
    """The rare diseases that are called not present, while the conformal set at `coverage` ("0.90") holds them: two rules, each right in its own share."""
    return [disease for disease, answer in result.present.items() if answer == "no" and disease in (result.conformal.get(coverage) or ())]


def referral(result: Result, thresholds: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> list[str]:
    """Why a person should decide and not this model, in words; empty when nothing speaks for it."""
    told = []
    for coverage, names in result.conformal.items():
        if names is not None and (not names or 2 * len(names) > len(titles)):
            what = "no diagnosis of the list fits" if not names else f"{len(names)} of {len(titles)} diagnoses remain"
            told.append(f"{what} at {100 * float(coverage):.0f}%")
            break
    for disease in not_excluded(result, min(result.conformal, default="")):
        told.append(f"{titles[disease]} is called not present, and its list at {100 * float(min(result.conformal)):.0f}% does not exclude it")
    for disease, limits in sorted(thresholds.items()):
        low, high = result.spread[disease]
        if {presence(low, limits), presence(high, limits)} == {"yes", "no"}:
            told.append(f"its models disagree on {titles[disease]}, from not present to present")
        elif result.present[disease] == "cannot say":
            told.append(f"it cannot say whether {titles[disease]} is present")
    return told
