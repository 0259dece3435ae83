"""External test sets: other data sets with the same classes, reported beside the internal test. The verdict does not rest on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from stages.dataset.groups import refuse_overlap
from stages.dataset.table import read_table
from stages.metrics.classification import LEAST_LESIONS
from stages.metrics.verdict import SCORES, WHAT, aa_statement, difference_rows, number
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json
from stages.runtime.markdown import markdown

INTERNAL_ONLY = "The answer in the first line rests on the internal test alone."


@dataclass(frozen=True)
class ExternalSet:
    """What stage `external` left of another data set: `table` as refined, by id; `found` is its external.json."""

    name: str
    table: pd.DataFrame
    found: Mapping[str, Any]

    @cached_property
    def labels(self) -> set[str]:
        """The classes that have an image here."""
        return set(self.table["label"])

    def rare(self, rare: Iterable[str]) -> list[str]:
        """The diseases among `rare` that have an image here."""
        return sorted(set(rare) & self.labels)


def read_external(folder: Path, name: str, rare: Sequence[str]) -> ExternalSet:
    """The external set `name` under `folder`; `UserError` when it cannot tell anything of the classes `rare`."""
    external = ExternalSet(name, read_table(folder / name).sort_values("id", ignore_index=True), read_json(folder / name / "external.json"))
    if not external.rare(rare) or len(external.labels) < 2:
        raise UserError(
            f"external set {name}: it must hold images of a rare class ({', '.join(sorted(rare))}) and of another, and has "
            f"{', '.join(sorted(external.labels))} only: take it off evaluate.external in params.yaml"
        )
    return external


def check_external(external: ExternalSet, refined: pd.DataFrame, synthetic: Iterable[str], seen: Mapping[str, set[str]]) -> None:
    """Law 1 for an external set: it shares no id, file or group with the internal images `refined` (id, sha256, group), no id with the
    generated ones (`synthetic`), and no model has seen a group of it. `seen` holds the group hashes by model. Raises `LawError`.
    """
    for column in ("id", "sha256", "group"):
        shared = int(external.table[column].isin(refined[column]).sum())
        if shared:
            raise LawError(
                f"external set {external.name}: {shared} image(s) have the {column} of an internal image; run stage external again (dvc repro)"
            )
    planted = sorted(set(external.table["id"]) & set(synthetic))
    if planted:
        raise LawError(f"synthetic image {planted[0]!r} lies in the external set {external.name}: a test set holds real images only")
    sealed = external.table[["group"]].assign(split="test")
    for who, hashes in seen.items():
        refuse_overlap(hashes, sealed, f"external set {external.name}: {who}")


def entry(
    external: ExternalSet, verdict: Mapping[str, Any], details: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:  # fmt: skip
    """What verdict.json says of an external set, from what `decide` found there and the regimes' details and metrics."""
    classes = details["real"]["classes"]
    lesions = {name: found["n_lesions"] for name, found in classes.items()}
    return {
        "title": external.found["title"],
        "phantom": external.found["phantom"],
        "n_images": len(external.table),
        "n_test_lesions": verdict["n_test_lesions"],
        "lesions": lesions,
        "missing_classes": [name for name, n in lesions.items() if not n],
        "dropped": external.found["dropped"],
        "candidate": verdict["candidate"],
        "controls": verdict["controls"],
        "aa": verdict["aa"],
        "regimes": {
            name: {score: details[name]["intervals"][score] for score in SCORES} | {k: metrics[name][k] for k in ("macro_f1", "accuracy", "ece")}
            for name in WHAT
            if name in details
        },
    }


def regime_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Per regime: the two scores of the verdict with their intervals, and the rest."""
    rows = [["regime", *(f"{label}, 95%" for label in SCORES.values()), "macro F1", "accuracy", "ECE"]]
    for name, scores in found["regimes"].items():
        both = [f"{number(s['value'])} ({number(s['low'])} to {number(s['high'])})" for s in (scores[score] for score in SCORES)]
        rows.append([name, *both, *(number(scores[k]) for k in ("macro_f1", "accuracy", "ece"))])
    return rows


def section(found: Mapping[str, Any], rare: Sequence[str]) -> str:
    """The part of verdict.md on one external set (`entry`)."""
    lesions, missing = found["lesions"], found["missing_classes"]
    dropped = "; ".join(f"{n} {reason}" for reason, n in found["dropped"].items())
    few = [f"{d} ({lesions[d]})" for d in sorted(rare) if 0 < lesions[d] < LEAST_LESIONS]
    about = [
        f"{found['n_test_lesions']} lesions ({found['n_images']} images): {', '.join(f'{c} ({n} lesions)' for c, n in lesions.items() if n)}.",
        f"Left out beforehand, by number of images: {dropped}." if dropped else "None of its images is in the internal data.",
        *([f"It has no image of {', '.join(missing)}: means of classes leave these out, the models may still name them."] if missing else []),
        *([f"Too few lesions for any claim about sensitivity ({LEAST_LESIONS} are needed): {', '.join(few)}."] if few else []),
        *(["Its images are drawings."] if found["phantom"] else []),
        INTERNAL_ONLY,
    ]
    tables = [markdown(difference_rows(found)), aa_statement(found), markdown(regime_rows(found))]
    return "\n\n".join([f"## External test: {found['title']}", " ".join(about), *tables])
