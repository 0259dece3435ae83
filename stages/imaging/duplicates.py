"""Near-duplicates: pictures alike by perceptual hash and by pixel correlation, both."""

from __future__ import annotations

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.imaging.decode import square

THUMB = 32


def fingerprint(picture: Image.Image) -> tuple[int, NDArray[np.uint8]]:
    """The 64-bit perceptual hash (imagehash.phash) and the (32, 32) uint8 luminance of the central square of `picture`.

    Neither depends on the size to which images are refined, so groups do not change with it.
    """
    thumb = square(picture.convert("L"), THUMB)
    bits = imagehash.phash(thumb).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), np.asarray(thumb)


def near_pairs(hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], distance: int, correlation: float) -> NDArray[np.int64]:
    """Index pairs (P, 2), i < j, whose `hashes` (N,) differ in at most `distance` of 64 bits and whose `thumbs` (N, H, W)
    have a Pearson correlation of at least `correlation`. Every pair is compared, in blocks: about 1 s for 10,000 images.
    """
    unit = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    unit -= unit.mean(1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    found = [np.empty((0, 2), np.int64)]
    block = 256
    for start in range(0, len(hashes), block):
        differ = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, start:])
        i, j = np.nonzero(differ <= distance)
        i, j = i[i < j] + start, j[i < j] + start
        alike = np.concatenate([np.einsum("pd,pd->p", unit[i[k : k + 4096]], unit[j[k : k + 4096]]) for k in range(0, len(i), 4096)] or [np.empty(0)])
        found.append(np.stack([i, j], 1)[alike >= correlation])
    return np.concatenate(found)


def components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """For `count` nodes linked by `pairs` (P, 2), the number of each node's connected component, (count,)."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1])
