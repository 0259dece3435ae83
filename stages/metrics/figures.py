"""Figures of the evaluation, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
}


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG without date or version, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_verdict(verdict: Mapping[str, Any], title: str, path: Path) -> None:
    """The candidate minus each control with 95% intervals, and A/A: a row each, a panel a score."""
    rows = {f"minus {name}": found for name, found in verdict["controls"].items()}
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
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{title}\n{verdict['candidate']} against each control; right of zero is better", fontsize=11)
    save(figure, path)


def draw_regimes(intervals: Mapping[str, Mapping[str, Mapping[str, float]]], title: str, path: Path) -> None:
    """Rare F1 and rare AP of every regime with their 95% intervals."""
    names = list(intervals)
    figure, axes = plt.subplots(1, len(SCORES), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (score, label) in zip(axes, SCORES.items(), strict=True):
        for x, name in enumerate(names):
            found = intervals[name][score]
            axis.bar(x, found["value"], color=COLOURS.get(name, "#888888"), width=0.7)
            axis.plot([x, x], [found["low"], found["high"]], color="black", lw=1.5)
        axis.set(title=label, xticks=range(len(names)), ylim=(0, 1))
        axis.set_xticklabels(names, rotation=30, ha="right")
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def draw_curves(table: pd.DataFrame, x: str, y: str, title: str, path: Path, diagonal: bool = False) -> None:
    """Column `y` over `x` of every regime overlaid, a panel a disease; columns regime, disease, `x`, `y`."""
    diseases = sorted(table["disease"].unique())
    figure, axes = plt.subplots(1, len(diseases), figsize=(4.4 * len(diseases) + 1, 4), squeeze=False, layout="constrained")
    for axis, disease in zip(axes[0], diseases, strict=True):
        if diagonal:
            axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=1, ls="--")
        for regime, part in table[table["disease"] == disease].groupby("regime", sort=False):
            axis.plot(part[x], part[y], label=regime, color=COLOURS.get(str(regime), "#888888"), lw=1.6)
        axis.set(xlabel=x, ylabel=y, title=disease, xlim=(0, 1), ylim=(0, 1.01))
        axis.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
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
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def draw_contact(sheets: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]], title: str, path: Path) -> None:
    """Per disease a row of real train images above a row of accepted synthetic ones (n, H, W, 3), both labelled."""
    width = max(len(images) for pair in sheets.values() for images in pair)
    rows = [(f"{disease}\n{kind}", images) for disease, pair in sheets.items() for kind, images in zip(("real", "AI-generated"), pair, strict=True)]
    figure, axes = plt.subplots(len(rows), width, figsize=(1.1 * width + 1, 1.25 * len(rows) + 0.6), squeeze=False, layout="constrained")
    for line, (label, images) in zip(axes, rows, strict=True):
        for k, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color="#e45756" if label.endswith("generated") else "#444444", visible=k < len(images))
            if k < len(images):
                axis.imshow(images[k])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    save(figure, path)
