"""Near-duplicates: pictures alike by perceptual hash and by pixel correlation, both, however they were mirrored or turned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.imaging.dihedral import turned

COMPARED = 2**19  # hashes compared at once by a thread: 5 MB
CLOSE = 512  # pairs of thumbs compared at once: 16 MB, too


class Thumbs(Protocol):
    """Thumbs (N, 32, 32) that may lie on disk: those of some `rows` (n,) are asked for."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


def near_pairs(hashes: NDArray[np.uint64], thumbs: Thumbs, distance: int, correlation: float, threads: int = 1) -> NDArray[np.int64]:
    """Index pairs (P, 2), i < j, sorted, that in some orientation differ in at most `distance` of 64 bits of their `hashes` (N, 8)
    and whose `thumbs` (N, 32, 32) then have a Pearson correlation of at least `correlation`.

    Every pair of hashes is compared, in blocks: under a second for 10,000 images, a minute for 100,000. Memory does not grow with the pairs compared.
    """
    variants = np.ascontiguousarray(hashes.T)
    block = max(1, COMPARED // max(1, len(hashes)))

    def close(start: int) -> list[NDArray[np.int64]]:
        """Of each orientation the pairs (p, 2) within `distance` whose first image is in the block from `start`."""
        pairs = []
        for variant in variants:
            differ = np.bitwise_count(variants[0, start : start + block, None] ^ variant[None, start:])
            i, j = np.divmod(np.flatnonzero(differ <= distance), differ.shape[1])
            pairs.append(np.stack([i, j], 1)[i < j] + start)
        return pairs

    found = [np.empty((0, 2), np.int64)]
    with ThreadPoolExecutor(threads) as pool:
        for by_turn in pool.map(close, range(0, len(hashes), block)):
            for variant, pairs in enumerate(by_turn):
                for start in range(0, len(pairs), CLOSE):
                    part = pairs[start : start + CLOSE]
                    alike = np.einsum("phw,phw->p", _unit(thumbs[part[:, 0]]), turned(_unit(thumbs[part[:, 1]]), variant))
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
