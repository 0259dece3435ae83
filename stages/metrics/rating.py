"""A blinded test for a person: real and synthetic images mixed on one sheet, a form to fill, and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.metrics.memorisation import share
from stages.runtime.errors import UserError

SHEET, FORM, KEY = "rating.png", "rating_form.csv", "rating_key.csv"
ANSWERS = ("real", "synthetic")


def choose(real: Mapping[str, Sequence[str]], synthetic: Mapping[str, Sequence[str]], images: int, seed: int) -> pd.DataFrame:
    """The key (number, kind, label, id): at most `images` ids, half of them of each kind, shuffled and numbered from 1.

    `real` and `synthetic` hold ids by class. Every class has as many of one kind as of the other, or the class would give the answer away.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, str]] = []
    for k, label in enumerate(sorted(real)):
        share = images // 2 // len(real) + (k < images // 2 % len(real))
        count = min(share, len(real[label]), len(synthetic[label]))
        for kind, ids in zip(ANSWERS, (real[label], synthetic[label]), strict=True):
            rows += [(kind, label, str(i)) for i in rng.permutation(sorted(ids))[:count]]
    key = pd.DataFrame([rows[i] for i in rng.permutation(len(rows))], columns=["kind", "label", "id"])
    key.insert(0, "number", range(1, len(key) + 1))
    return key


def read_form(path: Path, key: pd.DataFrame) -> pd.Series:
    """The answers of a filled form (number, answer) by number, blanks left out; `UserError` when it does not belong to `key` or says something else."""
    try:
        form = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a form ({error}); fill a copy of {FORM}") from None
    if not {"number", "answer"} <= set(form):
        raise UserError(f"{path} needs the columns number,answer: fill a copy of {FORM}")
    form["answer"] = form["answer"].str.strip().str.lower()
    form["number"] = form["number"].str.strip()
    wrong = form.loc[~form["answer"].isin(["", *ANSWERS]), ["number", "answer"]]
    if len(wrong):
        raise UserError(f"{path}: number {wrong['number'].iloc[0]} says {wrong['answer'].iloc[0]!r}; an answer is {' or '.join(ANSWERS)}")
    strange = sorted(set(form["number"]) - set(key["number"].astype(str)))
    if strange or form["number"].duplicated().any():
        what = (
            f"number {strange[0]!r} is not on the sheet"
            if strange
            else f"number {form.loc[form['number'].duplicated(), 'number'].iloc[0]} stands twice"
        )
        raise UserError(f"{path}: {what}; fill a copy of the {FORM} that came with it")
    given = form[form["answer"] != ""]
    if given.empty:
        raise UserError(f"{path} holds no answer yet: write {' or '.join(ANSWERS)} in the column answer")
    return given.set_index(given["number"].astype(int))["answer"]


def result(answers: pd.Series, key: pd.DataFrame) -> dict[str, Any]:
    """The share of right answers, in all and by kind, each {value, low, high, n} with Wilson's 95% interval. 0.5 is guessing."""
    joined = key.set_index("number").join(answers.rename("answer"), how="inner")
    right = joined["answer"] == joined["kind"]
    found = {}
    for name, hits in [("all", right), *((kind, right[joined["kind"] == kind]) for kind in ANSWERS)]:
        if len(hits):
            found[name] = share(hits.to_numpy(bool))
    return found
