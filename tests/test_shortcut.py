"""The shortcut audit: it fires on what is planted, at its rate on nothing, and never on the lesion itself."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from stages.imaging.refining import encode_png, recoded_bytes
from stages.quality import probes as quality
from stages.quality.probes import Probe, all_probes, border, outside_box, region_values
from stages.quality.shortcut import FOLDS, Floats, audit, clustered_interval, group_folds, permuted, stratified_auc, with_all_together

SIZE = 32


def drawn(count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth skin with noise, each of its own brightness; nothing of it hangs on a label."""
    level = rng.uniform(90, 180, (count, 1, 1, 3))
    return np.clip(level + rng.normal(0, 6, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def table_of(images: NDArray[np.uint8], quality_of: list[int] | None = None, side: list[int] | None = None) -> pd.DataFrame:
    """Rows as `refine` writes them, as if each image had come as JPEG of a quality, enlarged to a side."""
    rows = []
    for k, image in enumerate(images):
        out, width = io.BytesIO(), side[k] if side else 64
        whole = Image.fromarray(image).resize((width, width))
        whole.save(out, "JPEG", quality=quality_of[k] if quality_of else 85)
        sizes = {"file_bytes": len(out.getvalue()), "recoded_bytes": recoded_bytes(whole.convert("L"))}
        rows.append({"image": encode_png(image), "width": width, "height": width, "mode": "RGB", "format": "JPEG"} | sizes)
    return pd.DataFrame(rows)


def sides(groups: int, per_group: int = 2) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """A third of the groups are of the disease."""
    names = np.repeat([f"g{k:03d}" for k in range(groups)], per_group).astype(object)
    return np.repeat(np.arange(groups) % 3 == 0, per_group), names


def test_a_grey_frame_is_found_by_the_border() -> None:
    positive, groups = sides(60)
    images = drawn(len(positive), np.random.default_rng(0))
    images[positive, :2] = images[positive, -2:] = 128
    found = audit(all_probes(table_of(images), images.__getitem__, []), positive, groups, 199, 0)
    assert found.fires and found.auc is not None and found.auc > 0.95 and "border" in str(found.probe)


def test_the_quality_of_the_jpeg_is_found_by_compression_alone() -> None:
    positive, groups = sides(60)
    images = drawn(len(positive), np.random.default_rng(1))
    found = audit(all_probes(table_of(images, [70 if p else 90 for p in positive]), images.__getitem__, []), positive, groups, 199, 0)
    assert found.fires and found.aucs["compression"] > 0.95 and max(v for k, v in found.aucs.items() if k.split()[-1] == "border") < 0.7


def test_the_size_of_the_picture_is_found() -> None:
    positive, groups = sides(60)
    rng = np.random.default_rng(2)
    images = drawn(len(positive), rng)
    side = [int(rng.integers(60, 75)) + 12 * int(p) for p in positive]
    found = audit(all_probes(table_of(images, side=side), images.__getitem__, []), positive, groups, 199, 0)
    assert found.fires and found.aucs["image size"] > 0.95


def test_how_it_was_taken_is_found_where_the_table_says_it() -> None:
    positive, groups = sides(60)
    images = drawn(len(positive), np.random.default_rng(3))
    table = table_of(images).assign(burned_in_text=positive ^ (np.arange(len(positive)) % 10 == 0))
    found = audit(all_probes(table, images.__getitem__, ["burned_in_text"]), positive, groups, 199, 0)
    assert found.fires and found.aucs["burned in text"] > 0.85


def test_a_pattern_inside_the_lesion_is_not_a_shortcut() -> None:
    positive, groups = sides(60)
    rng = np.random.default_rng(4)
    images = drawn(len(positive), rng)
    images[positive, 10:22, 10:22] = rng.integers(0, 256, (int(positive.sum()), 12, 12, 3))  # colour, and many more bytes
    table = table_of(images).assign(box_x0=20, box_y0=20, box_x1=44, box_y1=44)
    found = audit(all_probes(table, images.__getitem__, []), positive, groups, 199, 0)
    assert not found.fires and "brightness of the outside of the lesion" in found.aucs


def test_under_the_null_p_is_uniform_and_the_auc_is_half() -> None:
    """100 labellings of the same probes: about 5% of p under 0.05 (binomial, 99.9% limits), and no pull of the AUC under 0.5."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    level = rng.normal(size=(60, 6))[groups] + 0.5 * rng.normal(size=(len(groups), 6))  # alike within a group
    tried = [Probe("a", level[:, :2]), Probe("b", np.round(level[:, 2:3])), Probe("all", level)]
    ps, aucs = [], []
    for seed in range(100):
        positive = np.random.default_rng(seed).permutation(np.arange(60) % 4 == 0)[groups]
        found = audit(tried, positive, groups.astype(str).astype(object), 100, seed)
        ps.append(found.p)
        aucs.append(list(found.aucs.values()))
    assert 0 < np.mean(np.array(ps) <= 0.05) <= 0.13
    assert abs(np.mean(aucs) - 0.5) < 0.04


def test_that_healthy_pictures_have_no_box_is_no_shortcut() -> None:
    positive, groups = sides(60)
    rng = np.random.default_rng(3)
    values = rng.normal(size=(len(positive), 2))
    probes = [Probe("border", rng.normal(size=(len(positive), 2))), Probe("outside", np.where(positive[:, None], values, np.nan))]
    found = audit(with_all_together(probes), positive, groups, 100, 0)
    assert set(found.aucs) == {"border"} and not found.fires  # one side alone has values outside of a box
    some = np.where(rng.random((len(positive), 1)) < 0.8, values, np.nan)
    found = audit(with_all_together([*probes, Probe("some", some)]), positive, groups, 100, 0)
    assert set(found.aucs) == {"border", "some"} and np.isfinite(found.aucs["some"])


def test_the_compression_of_files_of_one_length_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8), 8, axis=1).repeat(8, axis=2)
    images[:30] = rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)  # half are noise, which compresses badly
    recoded = [recoded_bytes(Image.fromarray(image).convert("L")) for image in images]
    table = pd.DataFrame({"width": 28, "height": 28, "file_bytes": 559580, "recoded_bytes": recoded})
    lengths = np.array([quality.png_length(image) for image in images])
    assert (quality.compression(table, lengths, SIZE) == 0).all()


def test_too_few_groups_and_mixed_groups_are_told_apart() -> None:
    positive, groups = sides(12)
    probe = Probe("a", np.random.default_rng(0).normal(size=(len(positive), 1)))
    assert audit([probe], positive, groups, 100, 0).auc is None
    positive, groups = sides(60)
    with pytest.raises(ValueError, match="both sides"):
        audit([Probe("a", np.zeros((len(positive), 1)))], positive ^ (np.arange(len(positive)) == 0), groups, 100, 0)


def test_a_second_run_gives_the_same() -> None:
    positive, groups = sides(40)
    probe = Probe("a", np.random.default_rng(6).normal(size=(len(positive), 3)))
    one, two = (audit([probe], positive, groups, 100, 0) for _ in range(2))
    assert (one.auc, one.low, one.p) == (two.auc, two.low, two.p) and np.array_equal(np.asarray(one.scores), np.asarray(two.scores))
    assert np.asarray(one.scores)[positive].mean() == pytest.approx(one.auc, abs=0.05)


@given(st.integers(10, 40), st.integers(10, 40), st.integers(0, 99))
def test_permutations_keep_the_number_of_either_side_in_every_fold(diseased: int, others: int, seed: int) -> None:
    labels = np.arange(diseased + others) < diseased
    folds = group_folds(labels, seed)
    drawn_labels = permuted(labels, folds, 5, np.random.default_rng(seed))
    assert (drawn_labels[:, 0] == labels).all()
    for fold in range(FOLDS):
        assert len(set(drawn_labels[folds == fold].sum(0))) == 1 and drawn_labels[folds == fold, 0].any()


def test_in_one_fold_it_is_the_auc_that_everybody_knows_and_its_interval_widens_with_copies() -> None:
    rng = np.random.default_rng(7)
    positive = rng.random(80) < 0.4
    ranks: Floats = rankdata(np.round(rng.normal(size=80) + positive, 1))
    folds = np.zeros(80, np.int64)
    assert stratified_auc(ranks[:, None], positive[:, None].astype(float), folds)[0] == pytest.approx(roc_auc_score(positive, ranks))
    alone = clustered_interval(ranks, positive, np.arange(80), folds)
    twice = np.repeat(np.arange(80), 2)
    copied = clustered_interval(rankdata(ranks[twice]), positive[twice], twice, np.zeros(160, np.int64))
    assert copied == pytest.approx(alone, abs=1e-9)  # a copy is no new patient


def test_the_regions_leave_out_the_lesion_wherever_the_square_was_cut() -> None:
    table = pd.DataFrame({"width": [200, 100, 100], "height": [100, 100, 100], "box_x0": [80, np.nan, 0], "box_y0": [30.0, np.nan, 0]})
    table = table.assign(box_x1=[120, np.nan, 0], box_y1=[70, np.nan, 0])  # the second is not known, the third is empty
    outside = outside_box(table, 50)
    inside = np.argwhere(~outside[0])
    assert (inside.min(0) >= 11).all() and (inside.max(0) <= 38).all() and outside[0, 25, 5] and not outside[0, 25, 25]
    assert not outside[1:].any()
    assert border(1, 64)[0].sum() == 64 * 64 - 56 * 56


def test_the_border_is_read_alone() -> None:
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, 4:-4, 4:-4] = 255
    images[1] = 255
    values = region_values(images, border(2, 64))
    assert np.allclose(values["brightness"], [[0] * 4, [1] * 4])
    assert np.isnan(region_values(images, np.zeros((2, 64, 64), bool))["brightness"]).all()
    assert quality.MARGIN == 1 / 16
