"""Figures of the evaluation, the same bytes for the same numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stages.metrics.verdict import SCORES

COLOURS = {
    "real": "#444444",
    "weighted": "#4c78a8",
    "duplicate": "#72b7b2",
    "randaugment": "#54a24b",
    "logit_adjust": "#b279a2",
    "synth": "#eeca3b",
    "combined": "#e45756",
    "curriculum": "#f58518",
    "oracle": "#9d755d",
}
#: What a clinician calls what the tables have.
AXES = {"fpr": "1 - specificity", "tpr": "sensitivity", "recall": "sensitivity (recall)", "precision": "positive predictive value (precision)"}
#: Beside colour, for those who do not see it.
LINES = dict(zip(COLOURS, cycle(("-", "--", ":", "-.")), strict=False))


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG without date or version, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def heading(figure: Figure, text: str) -> None:
    """The title over all panels, each of its lines wrapped to the width of `figure`."""
    width = int(figure.get_figwidth() * 11)  # letters of this size to the inch
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in text.splitlines()), fontsize=11)


def draw_verdict(verdict: Mapping[str, Any], title: str, path: Path) -> None:
    """The candidate minus each control with 95% intervals, and A/A: a row each, a panel a score."""
    rows = {f"minus {name}": found for name, found in verdict["controls"].items() if found}
    if verdict["aa"] is not None:
        rows["A/A: real minus real"] = verdict["aa"]
    names, y = list(rows), np.arange(len(rows))[::-1]
    figure, axes = plt.subplots(1, len(SCORES), figsize=(10, 0.5 * len(rows) + 1.6), sharey=True, layout="constrained")
    for axis, (score, label) in zip(axes, SCORES.items(), strict=True):
        axis.axvline(0, color="#999999", lw=1)
        for height, name in zip(y, names, strict=True):
            found = rows[name][score]
            colour = "#999999" if name.startswith("A/A") else "#2a7a3b" if found["low"] > 0 else "#b03030" if found["high"] < 0 else "#444444"
            axis.plot([found["low"], found["high"]], [height, height], color=colour, lw=2.5, solid_capstyle="round")
            axis.plot(found["diff"], height, "o", color=colour, ms=7)
        axis.set(xlabel=f"difference in {label}, 95% interval", yticks=y, yticklabels=names, ylim=(-0.6, len(rows) - 0.4))
        axis.locator_params(axis="x", nbins=6)
        axis.grid(axis="x", alpha=0.3)
    heading(figure, f"{title}\n{verdict['candidate']} against each control; right of zero is better")
    save(figure, path)


def draw_regimes(intervals: Mapping[str, Mapping[str, Mapping[str, float]]], title: str, path: Path) -> None:
    """Rare F1 and rare AP of every regime with their 95% intervals."""
    names = list(intervals)
    figure, axes = plt.subplots(1, len(SCORES), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (score, label) in zip(axes, SCORES.items(), strict=True):
        for x, name in enumerate(names):
            found = intervals[name][score]
            axis.bar(x, found["value"], color=COLOURS[name], width=0.7)
            axis.plot([x, x], [found["low"], found["high"]], color="black", lw=1.5)
        axis.set(title=label, xticks=range(len(names)), ylim=(0, 1))
        axis.set_xticklabels(names, rotation=30, ha="right")
        axis.grid(axis="y", alpha=0.3)
    heading(figure, title)
    save(figure, path)


def draw_curves(table: pd.DataFrame, x: str, y: str, titles: Mapping[str, str], title: str, path: Path, diagonal: bool = False) -> None:
    """Column `y` over `x` of every regime overlaid, a panel a disease called as in `titles`; columns regime, disease, `x`, `y`."""
    diseases = sorted(table["disease"].unique())
    figure, axes = plt.subplots(1, len(diseases), figsize=(4.4 * len(diseases) + 1.6, 4.2), squeeze=False, layout="constrained")
    for axis, disease in zip(axes[0], diseases, strict=True):
        if diagonal:
            axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
        for regime, part in table[table["disease"] == disease].groupby("regime", sort=False):
            axis.plot(part[x], part[y], label=regime, color=COLOURS[str(regime)], ls=LINES[str(regime)], lw=1.6)
        axis.set(xlabel=AXES.get(x, x), ylabel=AXES.get(y, y), title=titles.get(disease, disease), xlim=(0, 1), ylim=(0, 1.01))
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    heading(figure, title)
    save(figure, path)


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their whole name, as mix.per_class."""
    return {str(name): setting for name, setting in pd.json_normalize(dict(changes)).iloc[0].to_dict().items()}


def draw_study(tries: Sequence[Mapping[str, Any]], start: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Scores on val over each knob: a column a knob, a row a score, a line a regime, bars the 95% intervals.

    `tries` as in study.json (regime, changes, val), laid over the `start` of their regime: the try that changes nothing of it is a point of
    every knob. Those that change several knobs at once stand in the table alone, as do those of a knob of which one setting was tried.
    """
    knobs: dict[str, dict[str, list[tuple[Any, Mapping[str, Any]]]]] = {}
    plain: dict[str, Mapping[str, Any]] = {}
    under = {regime: _flat(settings) for regime, settings in start.items()}
    for one in tries:
        regime = one["regime"]
        changed = {name: setting for name, setting in _flat(one["changes"]).items() if under[regime][name] != setting}
        if not changed:
            plain[regime] = one["val"]
        if len(changed) == 1:
            ((name, setting),) = changed.items()
            knobs.setdefault(name.removeprefix(f"train_{regime}."), {}).setdefault(regime, []).append((setting, one["val"]))
    for knob, lines in knobs.items():
        for regime in lines.keys() & plain.keys():
            own = under[regime]
            lines[regime].append((own[knob] if knob in own else own[f"train_{regime}.{knob}"], plain[regime]))
    knobs = {knob: lines for knob, lines in knobs.items() if any(len(points) > 1 for points in lines.values())}
    figure, axes = plt.subplots(len(SCORES), len(knobs), figsize=(3.2 * len(knobs) + 1, 5.5), sharey="row", squeeze=False, layout="constrained")
    for column, (knob, lines) in zip(axes.T, knobs.items(), strict=True):
        for axis, (score, label) in zip(column, SCORES.items(), strict=True):
            for regime, tried in lines.items():
                numeric = all(isinstance(setting, (int, float)) for setting, _ in tried)
                points = sorted(tried, key=lambda point: point[0]) if numeric else tried
                x = [setting if numeric else str(setting) for setting, _ in points]
                y = np.array([val[score]["value"] for _, val in points])
                low, high = (np.array([val[score][end] for _, val in points]) for end in ("low", "high"))
                reach = np.maximum([y - low, high - y], 0)
                axis.errorbar(x, y, reach, label=regime, color=COLOURS[regime], ls=LINES[regime], marker="o", ms=4, lw=1.4, capsize=2)
            axis.set(xlabel=knob, ylabel=f"{label} on val")
            axis.grid(alpha=0.3)
        column[0].legend(fontsize=7)
    heading(figure, title)
    save(figure, path)


def draw_confusion(counts: Mapping[str, NDArray[np.int64]], classes: Sequence[str], title: str, path: Path) -> None:
    """The confusion matrices of all regimes: counts, coloured by the share of the true class."""
    columns = min(4, len(counts))
    lines = -(-len(counts) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 3.4 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(counts) :]:
        axis.axis("off")
    for axis, (regime, matrix) in zip(axes.flat, counts.items(), strict=False):
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
        for (i, k), n in np.ndenumerate(matrix):
            axis.text(k, i, str(n), ha="center", va="center", fontsize=7, color="white" if share[i, k] > 0.6 else "black")
        axis.set(title=regime, xticks=range(len(classes)), yticks=range(len(classes)), xlabel="predicted", ylabel="true")
        axis.set_xticklabels(classes, rotation=60, fontsize=7)
        axis.set_yticklabels(classes, fontsize=7)
    heading(figure, title)
    save(figure, path)
