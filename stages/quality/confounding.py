"""How strongly what is known of a patient goes with the diagnosis, before any image is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

STRONG, P_VALUE = 0.3, 0.01  # a strength from which a sentence is said, when chance gives it in under 1 of 100
LEAST_GROUPS = 20
MOST_HELD = 10_000_000  # labels, permuted ones too, held at once
MISSING = "is it recorded"

Floats = NDArray[np.float64]


def cramers_v(chi2: float, n: int, rows: int, columns: int) -> float:
    """Cramér's V, 0..1, less its bias (Bergsma, Journal of the Korean Statistical Society 2013, 42:323), of a table of n in `rows` x `columns`."""
    phi2 = max(0.0, chi2 / n - (rows - 1) * (columns - 1) / (n - 1))
    least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return (phi2 / least) ** 0.5 if least > 0 else 0.0


def correlation_ratio(share: float, n: int, classes: int) -> float:
    """The correlation ratio, 0..1, of a share of variance between `classes`, less its bias (epsilon squared, Kelley, PNAS 1935, 21:554).

    0 where each class has one value, which tells nothing.
    """
    return 0.0 if n <= classes else max(0.0, 1 - (1 - share) * (n - 1) / (n - classes)) ** 0.5


def between_classes(values: Floats, labels: NDArray[np.int64]) -> Floats:
    """What lies between classes, (B,): `values` (N, D) are one-hot or a number, `labels` (N, B) class codes.

    One-hot columns, each divided by the root of its mean, give chi squared / n; a number of variance 1 gives its share of variance.
    """
    centred, total = values - values.mean(0), np.zeros(labels.shape[1])
    for code in range(labels.max() + 1):
        member = (labels == code).astype(float)
        total += ((centred.T @ member) ** 2).sum(0) / np.maximum(member.sum(0), 1)
    return np.asarray(total / len(values))


def association(values: pd.Series, labels: pd.Series, permutations: int, seed: int) -> dict[str, Any] | None:
    """Strength 0..1 of `values` with `labels`, a row a group, missing values left out; None when fewer than 20 groups or nothing varies.

    Names: Cramér's V; numbers: the correlation ratio; both bias-corrected. p by permuting labels over groups.
    """
    known = values.notna()
    values, codes = values[known], pd.factorize(labels[known], sort=True)[0]
    n, classes = len(values), int(codes.max(initial=-1)) + 1
    if n < LEAST_GROUPS or classes < 2 or values.nunique() < 2:
        return None
    numeric = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
    if numeric:
        number = values.to_numpy(float)[:, None]
        table = (number - number.mean()) / number.std()
    else:
        table = pd.get_dummies(values.astype(str)).to_numpy(float)
        table = table / np.sqrt(table.mean(0))
    rng, block = np.random.default_rng(seed), max(1, MOST_HELD // n)
    shares = [between_classes(table, codes[:, None])]
    for start in range(0, permutations, block):
        drawn = np.repeat(codes[:, None], min(block, permutations - start), axis=1)
        shares.append(between_classes(table, rng.permuted(drawn, axis=0)))
    rounded = np.round(np.concatenate(shares), 9)  # equal but for the last bit is equal
    share = float(rounded[0])
    strength = correlation_ratio(share, n, classes) if numeric else cramers_v(share * n, n, classes, table.shape[1])
    return {
        "measure": "correlation ratio" if numeric else "Cramér's V",
        "strength": round(min(1.0, strength), 3),
        "p": round((1 + int((rounded[1:] >= share).sum())) / (1 + permutations), 4),
        "groups": n,
    }


def confounders(table: pd.DataFrame, attributes: list[str], permutations: int, seed: int) -> dict[str, dict[str, Any]]:
    """`association` with the class of each of `attributes`, and of whether it is recorded at all; a group counts once, with its first image."""
    first = table.drop_duplicates("group")
    found: dict[str, dict[str, Any]] = {}
    for name in attributes:
        for key, values in ((name, first[name]), (f"{name}: {MISSING}", first[name].notna().map({True: "yes", False: "no"}))):
            if result := association(values, first["label"], permutations, seed):
                found[key] = result
    return found


def strong(found: dict[str, dict[str, Any]]) -> list[str]:
    """The names in `found` that go with the diagnosis strongly, and not by chance."""
    return [name for name, result in found.items() if result["strength"] >= STRONG and result["p"] < P_VALUE]
