"""How far generated images lie from real ones, in the features of any encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import rel_entr, softmax
from sklearn.metrics.pairwise import polynomial_kernel

from stages.metrics.classification import TOO_FEW

Features = NDArray[np.floating[Any]]
NEIGHBOURS = 5  # of precision, recall, density and coverage, as their authors have it
LEAST_IMAGES = 10  # of each side, under which nothing is computed
FD_IMAGES = 5  # images per dimension of the features under which a covariance is not worth its name


def _kernel(a: Features, b: Features) -> NDArray[np.float64]:
    return np.asarray(polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1), np.float64)


def _mmd(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
    """The unbiased squared MMD from the three kernel matrices."""
    n, m = xy.shape
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def kid(real: Features, fake: Features) -> float:
    """Kernel inception distance (Binkowski et al. 2018): the unbiased squared MMD under the kernel (x.y / d + 1)^3.

    `real` (N, D) and `fake` (M, D) are features of any encoder, two or more of each. About 0 for samples of one distribution; can be below.
    """
    return _mmd(_kernel(real, real), _kernel(fake, fake), _kernel(real, fake))


def kid_interval(real: Features, fake: Features, draws: int = 200, seed: int = 0, share: float = 0.5) -> tuple[float, float, float]:
    """KID with the 95% interval of `draws` random subsets of `share` of each side (the field's habit; not a bootstrap)."""
    rng = np.random.default_rng(seed)
    n, m = int(share * len(real)), int(share * len(fake))
    xx, yy, xy = _kernel(real, real), _kernel(fake, fake), _kernel(real, fake)
    values = []
    for _ in range(draws):
        a, b = rng.permutation(len(real))[:n], rng.permutation(len(fake))[:m]
        values.append(_mmd(xx[np.ix_(a, a)], yy[np.ix_(b, b)], xy[np.ix_(a, b)]))
    low, high = np.quantile(values, [0.025, 0.975])
    return _mmd(xx, yy, xy), float(low), float(high)


def frechet(real: Features, fake: Features) -> float | None:
    """Frechet distance of the normal distributions fitted to `real` (N, D) and `fake` (M, D) (Heusel et al. 2017); 0 for the same.

    None where either side has under `FD_IMAGES` images per dimension.
    """
    if min(len(real), len(fake)) < FD_IMAGES * real.shape[1]:
        return None
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    # The trace of the matrix root of a b is the sum of the roots of its eigenvalues, which are real and not negative but for rounding.
    root = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root)


def manifolds(real: Features, fake: Features, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020, arXiv:2002.09797).

    `real` (N, D) and `fake` (M, D), more than `k` of each. A side's manifold is the union of the balls around its images that reach to
    the `k`-th nearest other one. precision: share of fakes in the real manifold; recall: of reals in the fake one; density: balls of reals
    that a fake lies in, over k (can exceed 1); coverage: share of reals whose ball holds a fake. All but density are 0 to 1.
    """

    def radii(one: Features) -> NDArray[np.float64]:
        return np.asarray(np.partition(cdist(one, one), k, axis=1)[:, k])  # place 0 is the image itself

    between = cdist(real, fake)
    inside = between < radii(real)[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((between < radii(fake)[None]).any(1).mean()),
        "density": float(inside.sum(0).mean() / k),
        "coverage": float(inside.any(1).mean()),
    }


def diversity(one: Features) -> float:
    """Mean distance between two different images of `one` (N, D), N of 2 or more: 0 when all are one image."""
    return float(cdist(one, one).sum() / (len(one) * (len(one) - 1)))


def pairs(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` different pairs (P, 2) of two different ones of `n` things, drawn at random."""
    first, second = np.triu_indices(n, 1)
    chosen = np.random.default_rng(seed).permutation(len(first))[:most]
    return np.stack([first[chosen], second[chosen]], 1)


def inception_score(logits: Features) -> float:
    """Inception score (Salimans et al. 2016, arXiv:1606.03498): exp of the mean KL divergence of p(y|x) from p(y); 1 to the number of classes.

    `logits` (N, C) of one set, not of tenths of it: the field's ten splits want thousands of images.
    """
    p = softmax(logits, axis=1)
    return float(np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))


def compare(real: Features, fake: Features, seed: int) -> dict[str, Any]:
    """All of the above for `fake` (M, D) against `real` (N, D), with n; "too few" for what the counts do not support.

    `diversity` is relative to that of the real images: 1 is as varied as they are.
    """
    counts = {"n": len(fake), "n_real": len(real)}
    if min(counts.values()) < LEAST_IMAGES:
        return counts | {"kid": TOO_FEW}
    value, low, high = kid_interval(real, fake, seed=seed)
    distance = frechet(real, fake)
    return {
        **counts,
        "kid": {"value": value, "low": low, "high": high},
        "fd": TOO_FEW if distance is None else distance,
        **manifolds(real, fake),
        "diversity": diversity(fake) / diversity(real),
    }
