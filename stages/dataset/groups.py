"""Law 1: the test set is real and sealed. Groups (patients or lesions) are told apart by short hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.runtime.errors import LawError, UserError
from stages.runtime.files import write_text

SPLITS = ("base", "train", "val", "cal", "test", "reserve", "oracle")
SEALED = ("val", "cal", "test")
SEEN = "groups_seen.txt"


def majority(labels: NDArray[np.int64], groups: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The class of each group (G,), where its images disagree: that of most of them, the first in order on ties.

    `labels` (N,) class indices, `groups` (N,) numbers 0..G-1.
    """
    votes = np.zeros((groups.max() + 1, classes), np.int64)
    np.add.at(votes, (groups, labels), 1)
    return np.asarray(votes.argmax(1))


def group_hash(group: str) -> str:
    """16 hex digits of SHA-256 of a group id."""
    return hashlib.sha256(group.encode()).hexdigest()[:16]


def write_seen(folder: str | Path, hashes: Iterable[str]) -> None:
    """Record in FOLDER/groups_seen.txt the hashes of the groups a model has seen, one a line, sorted."""
    write_text(Path(folder) / SEEN, "".join(f"{h}\n" for h in sorted(set(hashes))))


def read_seen(folder: str | Path) -> set[str]:
    """The hashes recorded by `write_seen`; a model without the record is refused (`LawError`)."""
    path = Path(folder) / SEEN
    if not path.exists():
        raise LawError(f"{path} is missing: a model that does not say which groups it has seen is not used")
    return set(path.read_text().split())


def refuse_overlap(seen: Iterable[str], split: pd.DataFrame, who: str) -> None:
    """Stop (`LawError`) when `who` has seen a group that lies in a sealed part of `split` (columns group, split)."""
    rows = split[split["split"].isin(SEALED)]
    hashes = {group_hash(g): (g, s) for g, s in zip(rows["group"], rows["split"], strict=True)}
    both = sorted(set(seen) & hashes.keys())
    if both:
        group, part = hashes[both[0]]
        raise LawError(
            f"{who} has seen {len(both)} group(s) of a sealed part, e.g. group {group!r} of {part}: "
            "its results there would be worthless. Rebuild it from this split (dvc repro)."
        )


def read_split(path: str | Path) -> pd.DataFrame:
    """data/splits/<name>.csv (id, label, group, split, fold), checked: unique ids, known splits, no group on two sides.

    `fold` is a nullable integer, given for train rows only. Raises `LawError` or `UserError`.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = {"id", "label", "group", "split", "fold"} - set(table.columns)
    if missing:
        raise UserError(f"{path}: column(s) {sorted(missing)} missing")
    table["fold"] = pd.to_numeric(table["fold"].replace("", None)).astype("Int64")
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise UserError(f"{path}: unknown split(s) {unknown}; one of {', '.join(SPLITS)}")
    twice = table.loc[table["id"].duplicated(), "id"]
    if len(twice):
        raise LawError(f"{path}: id {twice.iloc[0]!r} appears twice")
    sides = table.groupby("group")["split"].nunique()
    if (sides > 1).any():
        group = str(sides.index[sides > 1][0])
        where = sorted(table.loc[table["group"] == group, "split"].unique())
        raise LawError(f"{path}: group {group!r} lies in {' and '.join(where)}; a patient or lesion belongs to one side only")
    return table
