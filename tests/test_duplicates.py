"""Near-duplicates: what is turned, mirrored or nearly the same is found, and groups that it ties are one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages import refine
from stages.imaging.duplicates import components, near_pairs
from stages.imaging.refining import fingerprint
from tests.test_refine import blobs


def test_near_pairs_finds_turned_and_mirrored_copies_and_nothing_else() -> None:
    pictures = [blobs(k) for k in range(20)]
    rng = np.random.default_rng(0)
    for turns in range(4):
        noisy = np.clip(pictures[0].astype(int) + rng.integers(-4, 5, pictures[0].shape), 0, 255).astype(np.uint8)
        pictures += [np.rot90(noisy, turns), np.rot90(noisy, turns)[:, ::-1]]
    hashes, thumbs = zip(*(fingerprint(Image.fromarray(np.ascontiguousarray(p))) for p in pictures), strict=True)
    pairs = near_pairs(np.stack(hashes), np.stack(thumbs), 6, 0.97)
    copies = [0, *range(20, 28)]
    assert {tuple(p) for p in pairs.tolist()} == {(i, j) for i in copies for j in copies if i < j}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 600), st.integers(0, 12), st.floats(-1, 1))
def test_near_pairs_agrees_with_comparing_one_by_one(seed: int, count: int, distance: int, correlation: float) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 6, dtype=np.uint64)[rng.integers(0, 6, count)][:, None] ^ (
        np.uint64(1) << rng.integers(0, 9, (count, 8), dtype=np.uint64)
    )
    thumbs = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
    found = {tuple(p) for p in near_pairs(hashes, thumbs, distance, correlation).tolist()}
    for i, j in rng.integers(0, count, (50, 2)):
        i, j = sorted((int(i), int(j)))
        turned = [np.rot90(thumbs[j], k) for k in range(4)]
        turned += [t[:, ::-1] for t in turned]
        close = [int(hashes[i, 0] ^ hashes[j, k]).bit_count() <= distance for k in range(8)]
        alike = [np.corrcoef(thumbs[i].ravel(), t.ravel())[0, 1] for t in turned]
        if any(abs(a - correlation) < 1e-5 for a in alike):
            continue
        expected = i < j and any(c and a >= correlation for c, a in zip(close, alike, strict=True))
        assert ((i, j) in found) == expected


@settings(deadline=None)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))))
def test_merged_groups_are_the_connected_ones(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, links = case
    groups = pd.Series([f"g{i % 7}" for i in range(count)])
    merged = refine.merge_groups(groups, np.array(links, np.int64).reshape(-1, 2))
    assert all(merged[i] == merged[j] for i, j in links)
    assert all(merged[i] == merged[j] for i in range(count) for j in range(count) if groups[i] == groups[j])
    named = {g: int(g[1:]) for g in set(groups)}
    joined = components(7, np.array([(named[groups[i]], named[groups[j]]) for i, j in links], np.int64).reshape(-1, 2))
    assert len(set(merged)) == len({joined[k] for k in named.values()})
