"""The eight turns and mirrorings of a square image: a lesion has no upright side."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def dihedral(images: NDArray[T]) -> NDArray[T]:
    """The eight variants (8, *images.shape) of square `images` (N, S, S) or (N, S, S, C); the first is the image as it is."""
    return np.stack([turned(images, k) for k in range(8)])


def turned(images: NDArray[T], variant: int) -> NDArray[T]:
    """One of the eight variants of square `images` (N, S, S) or (N, S, S, C), 0 to 7: a view."""
    turn = np.rot90(images, variant % 4, axes=(1, 2))
    return turn[:, :, ::-1] if variant >= 4 else turn
