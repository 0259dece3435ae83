"""What the columns of a stranger's table may mean, by their names and what stands in them. Guesses, for a person to check."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

import pandas as pd

from stages.dataset.raw import HOT, UNKNOWN, plain_name

MOST_CLASSES = 50  # a column with more different values is no label
#: Words in a column's name, for the label from the surest on, English before what German, French,
#: Spanish and Italian tables say; and for the id of a patient, who counts more than a lesion.
LABEL = ("label", "labels", "class", "dx", "diagnosis", "category", "target", "pathology", "finding", "disease", "abnormality", "y",
         "diagnose", "diagnostic", "diagnostico", "diagnosi", "klasse", "classe", "clase", "befund")  # fmt: skip
GROUP = ("patient", "subject", "person", "case", "study", "lesion", "exam", "pid", "paciente", "paziente")


class Columns(NamedTuple):
    """The column of the image's file, what to add to its values, how many rows have a file; label, or one-hot columns; group; attributes."""

    file: str
    suffix: str
    matched: int
    label: str | None
    onehot: list[str]
    group: str | None
    attributes: dict[str, str]


def guess(table: pd.DataFrame, files: list[str]) -> Columns | None:
    """The meaning of the columns of `table` (text, '' where unknown) beside the image files `files`; None when no column names files."""
    file, suffix, matched = max((_files_of(table[column], files) for column in table), key=lambda found: found[2], default=("", "", 0))
    if not matched:
        return None
    rest = table.drop(columns=file)
    group = _group(rest)
    attributes: dict[str, str] = {}
    for name, fits in ATTRIBUTES.items():
        column = next((c for c in rest.columns if c not in attributes.values() and fits(_words(c), _known(rest[c]))), None)
        if column is not None and column != group:
            attributes[name] = column
    left = rest.drop(columns=[c for c in (group, *attributes.values()) if c])
    label, onehot = _label(left), _onehot(left)
    if label and onehot and not _hint(label, LABEL):
        label = None  # a column per class says more than a column that merely has few values
    return Columns(file, suffix, matched, label, [] if label else onehot, group, attributes)


def _words(column: str) -> set[str]:
    """The words of a column's name: age_approx, Age (years), patientAge."""
    return set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower()))


def _hint(column: str, words: tuple[str, ...]) -> int:
    """The place from 1 in `words`, the surest first, of the first that stands in the column's name (patient, also as patientid); 0 for none."""
    return next((k for k, word in enumerate(words, 1) if {word, f"{word}id"} & _words(column)), 0)


def _known(values: pd.Series) -> pd.Series:
    return values[~values.str.lower().isin(UNKNOWN)]


def _files_of(values: pd.Series, files: list[str]) -> tuple[str, str, int]:
    """(column, suffix to add, number of rows that name a file by path or bare name); the suffix that most rows need."""
    paths = [PurePosixPath(f) for f in files]
    named = values.map(lambda value: plain_name(PurePosixPath(value.replace("\\", "/")).name))
    best = ("", int(named.isin({plain_name(p.name) for p in paths}).sum()))
    suffixes = Counter(named.map({plain_name(p.name.removesuffix(p.suffix)): p.suffix for p in paths}).dropna())
    suffixes.pop("", None)
    if suffixes and suffixes.most_common(1)[0][1] > best[1]:
        best = suffixes.most_common(1)[0]
    return str(values.name), best[0], best[1]


def _label(table: pd.DataFrame) -> str | None:
    """A column of few values, each standing often, whose name says label or diagnosis; else the only one whose values are words, or 0 and 1."""
    few = [c for c in table.columns if 2 <= _known(table[c]).nunique() <= min(MOST_CLASSES, max(2, len(table) // 2))]
    hinted = sorted((c for c in few if _hint(c, LABEL)), key=lambda c: (_hint(c, LABEL), len(_words(c))))
    if hinted:
        return hinted[0]
    words = [c for c in few if pd.to_numeric(_known(table[c]), errors="coerce").isna().all()]
    if len(words) == 1:
        return words[0]
    marks = [c for c in few if is_mark(table[c])]
    return marks[0] if len(marks) == 1 and not words else None


def label_hint(column: str) -> bool:
    """Whether a column's name says that it holds labels, whatever they are."""
    return _hint(column, LABEL) > 0


def is_mark(values: pd.Series) -> bool:
    """Whether a column says yes or no, as 1 and 0."""
    return bool(_known(values).str.lower().isin(HOT.keys()).all())


def _onehot(table: pd.DataFrame) -> list[str]:
    """Columns of 0 and 1 of which nine rows in ten have exactly one 1; [] when there are under two."""
    columns = [c for c in table.columns if len(table) and table[c].str.lower().isin(HOT.keys()).all()]
    marks = table[columns].apply(lambda values: values.str.lower().map(HOT))
    return columns if len(columns) >= 2 and (marks.sum(axis=1) == 1).mean() >= 0.9 else []


def _group(table: pd.DataFrame) -> str | None:
    """The id of a patient, else of a lesion: a hint in the name and more values than a label has, unless there are few rows."""
    fits = [
        c
        for c in table.columns
        if _hint(c, GROUP) and _known(table[c]).nunique() >= min(10, len(table) / 10) and not _words(c) & {"age", "sex", "date"}
    ]
    return min(fits, key=lambda c: (_hint(c, GROUP), "id" not in _words(c)), default=None)


def _numbers(low: float, high: float) -> Callable[[pd.Series], bool]:
    return lambda known: len(known) > 0 and bool(pd.to_numeric(known, errors="coerce").between(low, high).all())


def _few(*allowed: str) -> Callable[[pd.Series], bool]:
    return lambda known: len(known) > 0 and bool(known.str.lower().isin(allowed).all() if allowed else known.nunique() <= MOST_CLASSES)


def _attribute(names: set[str], fits: Callable[[pd.Series], bool]) -> Callable[[set[str], pd.Series], bool]:
    return lambda words, known: bool(words & names) and fits(known)


#: Our name of an attribute to the test of a column, by the words of its name and its known values.
ATTRIBUTES = {
    "age": _attribute({"age", "years", "alter", "edad", "eta"}, _numbers(0, 110)),
    "sex": _attribute({"sex", "gender", "geschlecht", "sexe", "sexo", "sesso"}, _few(*"mfwhd01", "male", "female", "man", "woman", "other")),
    "site": _attribute({"site", "localization", "localisation", "location", "anatom"}, _few()),
    "skin_tone": _attribute({"skin", "fitzpatrick"}, _few()),
    "view": _attribute({"view", "projection"}, _few()),
    "side": _attribute({"side", "laterality"}, _few("l", "r", "left", "right", "b", "both", "bilateral")),
    "density": _attribute({"density"}, _few()),
}
