"""How far generated images lie from real ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import polynomial_kernel


def kid(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """Kernel inception distance (Binkowski et al. 2018): the unbiased squared MMD under the kernel (x.y / d + 1)^3.

    `real` (N, D) and `fake` (M, D) are features of any encoder. About 0 for samples of one distribution; can be below.
    """
    d = real.shape[1]
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, gamma=1 / d, coef0=1) for a, b in ((real, real), (fake, fake), (real, fake)))
    n, m = len(real), len(fake)
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def kid_interval(
    real: NDArray[np.floating], fake: NDArray[np.floating], draws: int = 200, seed: int = 0, share: float = 0.5
) -> tuple[float, float, float]:
    """KID with the 95% interval of `draws` random subsets of `share` of each side (the field's habit; not a bootstrap)."""
    rng = np.random.default_rng(seed)
    n, m = int(share * len(real)), int(share * len(fake))
    values = [kid(real[rng.permutation(len(real))[:n]], fake[rng.permutation(len(fake))[:m]]) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return kid(real, fake), float(low), float(high)
