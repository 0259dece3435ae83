"""Pictures of the audit: the closest pairs, how near candidates lie to training images, and what the scorer named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from stages.metrics.figures import draw_confusion, save
from stages.metrics.memorisation import QUANTILE
from stages.quality.pictures import captioned

IN_ROW = 8  # four pairs


@dataclass(frozen=True)
class Nearest:
    """Distances to the nearest training image per mode, of candidates and of the null, and the pairs themselves: distance, mode, candidate, training image."""

    distances: dict[str, NDArray[np.float64]]
    null: dict[str, NDArray[np.float64]]
    pairs: list[tuple[float, str, NDArray[np.uint8], NDArray[np.uint8]]]


def draw_pairs(seen: Nearest, count: int, path: Path) -> None:
    """The `count` candidates that lie nearest to a training image, each beside it."""
    cells: list[tuple[NDArray[np.uint8], str]] = []
    for distance, mode, candidate, training in sorted(seen.pairs, key=lambda pair: pair[0])[:count]:
        cells += [(candidate, f"{mode}, {distance:.2f} away"), (training, "training image")]
    if cells:
        captioned([cells[k : k + IN_ROW] for k in range(0, len(cells), IN_ROW)], path, generated=True)


def draw_distances(seen: Nearest, title: str, path: Path) -> None:
    """Cumulative shares of the distances to the nearest training image: a panel a mode, candidates beside the null."""
    if not seen.distances:
        return
    figure, axes = plt.subplots(
        1, len(seen.distances), figsize=(3.6 * len(seen.distances) + 1, 3.4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (mode, own) in zip(axes[0], seen.distances.items(), strict=True):
        null = seen.null[mode]
        for values, colour, label in ((own, "#e45756", "candidates"), (null, "#444444", "real, never trained on")):
            if len(values):
                axis.ecdf(values, color=colour, label=f"{label} (n = {len(values)})")
        if len(null):
            axis.axvline(np.quantile(null, QUANTILE), color="#999999", lw=0.8, ls="--", label="nearer: a copy")
        axis.set(title=f"{title}, {mode}", xlabel="distance to the nearest training image")
        axis.legend(fontsize=7)
    axes[0, 0].set_ylabel("share at most as far")
    save(figure, path)


def draw_accuracy(whole: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """What the independent scorer named: synthetic images and real ones."""
    counts = {name: np.array(whole[key]["confusion"]) for name, key in (("synthetic images", "generator"), ("real images (val)", "real"))}
    draw_confusion(counts, classes, "What a scorer named that neither generator nor judge has seen", path)
