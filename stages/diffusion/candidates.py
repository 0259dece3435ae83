"""What the generator drew, as the audit reads it: every attempt, accepted or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.dataset.table import decode, read_table
from stages.diffusion.selection import FLAT


@dataclass(frozen=True)
class Candidates:
    """Every attempt of one disease that has pixels: a row of `table` and an image of `images` (N, S, S, 3) each; `broken` counts the others by mode."""

    table: pd.DataFrame
    images: NDArray[np.uint8]
    broken: Mapping[str, int]

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which of them the filter let through (N,)."""
        return self.table["accepted"].to_numpy(bool)

    @property
    def modes(self) -> list[str]:
        """The modes that they were drawn in, sorted."""
        return sorted(set(self.table["mode"]) | set(self.broken))

    def of(self, mode: str) -> NDArray[np.bool_]:
        """Which of them were drawn in `mode` (N,)."""
        return (self.table["mode"] == mode).to_numpy(bool)


def read_candidates(folder: Path, size: int) -> Candidates:
    """The attempts in `folder`, accepted or not."""
    table = read_table(folder)
    whole = table["image"].notna()
    broken = {str(mode): int(count) for mode, count in table[~whole].groupby("mode").size().items()}
    table = table[whole].sort_values("id", ignore_index=True)
    return Candidates(table.drop(columns="image"), decode(table["image"], size), broken)


def flat(images: NDArray[np.uint8]) -> int:
    """How many of `images` (N, S, S, 3) are black or flat."""
    return sum(bool(image.std() / 255 < FLAT) for image in images)


def flaws(found: Candidates) -> list[str]:
    """What no accepted image may be: black or flat, or the same picture as another."""
    accepted = found.images[found.accepted]
    black, same = flat(accepted), len(accepted) - len({image.tobytes() for image in accepted})
    said = [f"{black} accepted image(s) are black or flat"] if black else []
    return said + ([f"{same} accepted image(s) are the very picture of another"] if same else [])
