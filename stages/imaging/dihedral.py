"""The eight turns and mirrorings of a square image: a lesion has no upright side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dihedral(images: NDArray[np.generic]) -> NDArray[np.generic]:
    """The eight variants (8, *images.shape) of square `images` (N, S, S) or (N, S, S, C); the first is the image as it is."""
    turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return np.stack([*turned, *(t[:, :, ::-1] for t in turned)])
