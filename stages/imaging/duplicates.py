"""Near-duplicates: pictures alike by perceptual hash and by pixel correlation, both, however they were mirrored or turned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.imaging.dihedral import dihedral

COMPARED = 2**20  # hashes compared at once: 16 MB
CLOSE = 512  # pairs of thumbs compared at once: 16 MB, too


def near_pairs(hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], distance: int, correlation: float) -> NDArray[np.int64]:
    """Index pairs (P, 2), i < j, sorted, that in some orientation differ in at most `distance` of 64 bits of their `hashes` (N, 8)
    and whose `thumbs` (N, 32, 32) then have a Pearson correlation of at least `correlation`.

    Every pair of hashes is compared, in blocks: seconds for 10,000 images, minutes for 100,000. Memory does not grow with the pairs compared.
    """
    found = [np.empty((0, 2), np.int64)]
    block = max(1, COMPARED // max(1, len(hashes)))
    for turn in range(hashes.shape[1]):
        turned = np.ascontiguousarray(hashes[:, turn])
        for start in range(0, len(hashes), block):
            differ = np.bitwise_count(hashes[start : start + block, :1] ^ turned[None, start:])
            i, j = np.divmod(np.flatnonzero(differ <= distance), differ.shape[1])
            pairs = np.stack([i, j], 1)[i < j] + start
            for part in np.array_split(pairs, range(CLOSE, len(pairs), CLOSE)):
                alike = np.einsum("phw,phw->p", _unit(thumbs[part[:, 0]]), dihedral(_unit(thumbs[part[:, 1]]))[turn])
                found.append(part[alike >= correlation])
    return np.unique(np.concatenate(found), axis=0)


def _unit(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W) less their means, each of length 1."""
    unit = thumbs.astype(np.float32)
    unit -= unit.mean((1, 2), keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=(1, 2), keepdims=True), 1e-6)
    return unit


def components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """For `count` nodes linked by `pairs` (P, 2), the number of each node's connected component, (count,)."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1])
