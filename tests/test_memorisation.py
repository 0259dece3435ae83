"""Quality and memorisation in numbers: planted failures show, honest samples do not, and the intervals are those of the literature."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from stages.dataset.reserve import NULL, REST, divide
from stages.imaging.dihedral import dihedral
from stages.metrics import memorisation
from stages.metrics.accuracy import accuracy, confusion, macro, place
from stages.metrics.audit_report import stops, warnings
from stages.metrics.classification import TOO_FEW
from stages.metrics.generative import compare, diversity, frechet, kid, kid_interval, manifolds

RNG = np.random.default_rng(0)
REAL, OTHER = RNG.normal(size=(2, 120, 8))


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The simplest encoder: the image itself."""
    return images.reshape(len(images), -1) / 255


def noise(count: int, seed: int) -> NDArray[np.uint8]:
    """Images (count, 4, 4, 3) of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


# --- quality


def test_kid_of_a_known_case_and_of_the_same_images_twice_the_mean_of_its_kernels() -> None:
    real, fake = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])  # kernels (x y + 1)^3
    assert kid(real, fake) == pytest.approx(1.0 + 343.0 - 2 * (1 + 1 + 27 + 64) / 4)
    value, low, high = kid_interval(REAL, OTHER)
    assert value == pytest.approx(kid(REAL, OTHER)) and low < 0 < high


def test_a_shift_is_seen_and_an_honest_sample_is_not() -> None:
    honest, shifted = compare(REAL, OTHER, 0), compare(REAL, OTHER + 1.5, 0)
    assert shifted["kid"]["low"] > honest["kid"]["high"]
    assert shifted["coverage"] < 0.5 < honest["coverage"]
    assert honest["diversity"] == pytest.approx(1, abs=0.1)


def test_one_image_repeated_is_precise_and_covers_nothing() -> None:
    found = compare(REAL, np.tile(REAL[:1], (100, 1)), 0)
    assert found["precision"] == 1
    assert found["coverage"] < 0.2 and found["recall"] < 0.2
    assert found["diversity"] == pytest.approx(0)


def test_manifolds_by_hand() -> None:
    real, fake = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [10.0], [11.5]])
    # radii to the nearest other: reals 1, 1, 2; fakes 9.5, 1.5, 1.5
    assert manifolds(real, fake, k=1) == {
        "precision": pytest.approx(1 / 3),
        "recall": 1.0,
        "density": pytest.approx(2 / 3),
        "coverage": pytest.approx(2 / 3),
    }


def test_frechet_needs_enough_images_and_is_the_formula_of_two_normals() -> None:
    assert frechet(REAL[:39], OTHER) is None
    scaled = 2 * REAL + 3
    spread = np.trace(np.cov(REAL, rowvar=False))  # of a and 4 a: tr a + 4 tr a - 2 tr 2 a
    assert frechet(REAL, scaled) == pytest.approx(((REAL.mean(0) + 3) ** 2).sum() + spread)


def test_too_few_images_give_no_number() -> None:
    assert compare(REAL[:9], OTHER, 0) == {"n": 120, "n_real": 9, "kid": TOO_FEW}


def test_diversity_is_the_mean_distance_of_different_images() -> None:
    assert diversity(np.array([[0.0], [1.0], [2.0]])) == pytest.approx(4 / 3)


# --- copies


@pytest.mark.parametrize("turn", range(8))
def test_copies_are_found_in_every_turn(turn: int) -> None:
    training = noise(20, 1)
    copies = np.asarray(dihedral(training)[turn].repeat(15, 0)).astype(np.uint8)
    found = memorisation.search(pixels, copies, training, noise(300, 2))
    excess = found.found["copy_excess"]
    assert not excess["underpowered"]
    assert excess["low"] > 0.9
    assert found.found["auth_pct"]["value"] == 0
    assert (found.which == np.arange(20).repeat(15)).all()


def test_images_that_are_no_copies_are_not_called_so() -> None:
    found = memorisation.search(pixels, noise(300, 3), noise(20, 1), noise(300, 2)).found
    assert found["copy_excess"]["low"] < 0 < found["copy_excess"]["high"]
    assert found["copy_excess"]["copies_null"] == 3
    assert abs(found["auth_pct"]["value"] - found["auth_pct"]["null"]) < 0.15


def test_without_a_null_nothing_is_said_of_copies() -> None:
    found = memorisation.search(pixels, noise(30, 3), noise(20, 1), noise(0, 2)).found
    assert found["copy_excess"] == {"value": None, "low": None, "high": None, "note": "no reserve images", "n": 30}
    assert found["auth_pct"]["value"] > 0 and found["auth_pct"]["null"] is None


def test_newcombe_is_that_of_the_paper() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80
    assert memorisation.newcombe(56, 70, 48, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


@given(st.integers(1, 50), st.integers(1, 50), st.data())
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_difference(n: int, m: int, data: st.DataObject) -> None:
    value, low, high = memorisation.newcombe(data.draw(st.integers(0, n)), n, data.draw(st.integers(0, m)), m)
    assert -1 - 1e-9 <= low <= value <= high <= 1 + 1e-9


# --- membership


def test_a_lora_that_knows_its_images_is_told_from_one_that_does_not() -> None:
    groups = [f"l{i // 2}" for i in range(40)], [f"o{i}" for i in range(120)]
    members, others = RNG.normal(size=40), RNG.normal(size=120)
    knows = memorisation.membership_auc(members + 3, others, *groups, seed=0)
    honest = memorisation.membership_auc(members, others, *groups, seed=0)
    assert knows["value"] == pytest.approx(roc_auc_score(np.repeat([1, 0], [40, 120]), np.r_[members + 3, others]))
    assert knows["low"] > memorisation.MAX_AUC > honest["low"]
    assert (honest["n"], honest["lesions"], honest["n_null"]) == (40, 20, 120)
    assert 0.5 < honest["detectable"] < 0.75
    few = memorisation.membership_auc(members, others[:10], groups[0], [f"o{i // 3}" for i in range(10)], seed=0)
    assert few["underpowered"] and not memorisation.membership_auc(members, others[:10], groups[0], groups[1][:10], seed=0)["underpowered"]


def test_a_lora_with_no_effect_knows_nothing() -> None:
    found = memorisation.membership_auc(np.zeros(20), np.zeros(60), [str(i) for i in range(20)], [str(i) for i in range(60)], seed=0)
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.5, 0.5)


# --- accuracy


def test_scores_at_equal_counts_are_those_of_scikit_learn() -> None:
    labels = np.repeat(np.arange(4), 30)
    named = np.where(RNG.random(120) < 0.6, labels, RNG.integers(0, 3, 120))
    wanted = [(labels == named).mean()]
    wanted += [score(labels, named, average="macro", zero_division=0) for score in (precision_score, recall_score, f1_score)]
    assert macro(confusion(labels, named, 4)) == pytest.approx(wanted)
    found = accuracy(labels, named, list("abcd"), 0)
    assert found["macro_f1"]["low"] < found["macro_f1"]["value"] < found["macro_f1"]["high"]


def test_a_class_with_more_images_weighs_no_more() -> None:
    counts = np.array([[3, 1], [1, 1]])
    assert macro(counts) == pytest.approx(macro(counts * np.array([[10], [1]])))


@pytest.mark.parametrize(("value", "where"), [(0.4, "below"), (0.6, "inside"), (0.8, "above")])
def test_a_value_lies_below_inside_or_above(value: float, where: str) -> None:
    assert place(value, {"low": 0.5, "high": 0.7}) == where


# --- what is said


def found(
    low: float = -0.1, underpowered: bool = False, auc_low: float = 0.4, few: bool = False, diversity: float = 1.0, coverage: float = 0.8
) -> dict[str, dict[str, object]]:
    """One mode of one disease, all well unless told otherwise."""
    excess = {"value": low + 0.1, "low": low, "high": low + 0.2, "underpowered": underpowered}
    auc = {"value": auc_low + 0.1, "low": auc_low, "high": auc_low + 0.2, "underpowered": few}
    quality = {"encoder": {"after": {"diversity": diversity, "coverage": coverage}}}
    unusable = {"not finite": 0, "black or flat": 0}
    return {"text2img": {"copy_excess": excess, "membership_auc": auc, "unusable": unusable, "quality": quality, "null_from": "reserve"}}


@pytest.mark.parametrize(
    ("modes", "complaint"),
    [
        (found(), ""),
        (found(low=0.06), "audit.max_copy_rate"),
        (found(low=0.06, underpowered=True), ""),
        (found(auc_low=0.61), "tells its training images from others"),
        (found(auc_low=0.61, few=True), ""),
    ],
    ids=["well", "copies", "copies, underpowered", "membership", "membership, four lesions"],
)
def test_what_stops_the_run(modes: dict[str, dict[str, object]], complaint: str) -> None:
    said = stops({"df": modes}, {"df": []}, 0.05)
    assert (complaint in said[0]) if complaint else (said == [])


def test_what_is_warned_of() -> None:
    labels = np.repeat([0, 1], 60)
    whole = {
        "per_class": 60,
        "floors": {"df": {"encoder": {"coverage": 0.9}}},
        "generator": accuracy(labels, np.zeros(120, int), ["df", "nv"], 0),
        "real": accuracy(labels, labels, ["df", "nv"], 0),
    }
    modes = found(low=0.06, underpowered=True, diversity=0.1, coverage=0.6)
    modes["text2img"]["unusable"] = {"not finite": 2, "black or flat": 1}
    said = "\n".join(warnings({"df": modes}, whole, 60))
    assert "2 drawn image(s) are not finite" in said and "1 drawn image(s) are black or flat" in said
    assert "accepted images resemble one another" in said
    assert "accepted images reach 60% of the real ones; other real images reach 90%" in said
    assert "from too few images to stop the run" in said
    assert "synthetic nv is named right less often" in said and "synthetic df" not in said
    few = whole | {"floors": {"df": {"encoder": {"n": 3, "kid": "too few"}}}}
    assert "of the real ones" not in "\n".join(warnings({"df": modes}, few, 60))
    well = whole | {"generator": whole["real"]}
    assert warnings({"df": found()}, well, 60) == []
    assert [
        "tells its training images from others, AUC 0.65 (0.55 to 0.75):" in text for text in warnings({"df": found(auc_low=0.55)}, well, 60)
    ] == [True]
    small = found()
    small["text2img"] |= {"null_from": "val", "quality": memorisation.NO_RESERVE}
    assert ["held against those of val" in text for text in warnings({"df": small}, well, 60)] == [True]


# --- the reserve


@given(st.lists(st.tuples(st.sampled_from(["df", "vasc", "nv"]), st.integers(0, 30), st.sampled_from(["reserve", "train"])), max_size=80))
@settings(max_examples=50, deadline=None)
def test_null_and_rest_share_no_group_and_nothing_but_reserve_is_used(rows: list[tuple[str, int, str]]) -> None:
    split = pd.DataFrame([(f"i{k}", label, f"{part}{g}", part) for k, (label, g, part) in enumerate(rows)], columns=["id", "label", "group", "split"])
    use = divide(split, ["df", "vasc"], 5)
    joined = split.set_index("id").loc[use.index].assign(use=use)
    assert set(joined["split"]) <= {"reserve"}
    assert not set(joined.loc[use == NULL, "group"]) & set(joined.loc[use == REST, "group"])
    assert set(joined.loc[use == NULL, "label"]) <= {"df", "vasc"}
    assert divide(split.sample(frac=1, random_state=0), ["vasc", "df"], 5).sort_index().equals(use.sort_index())


def test_the_null_takes_what_it_needs_and_leaves_a_quarter() -> None:
    split = pd.DataFrame(
        {"id": [f"i{k}" for k in range(440)], "label": ["df"] * 420 + ["vasc"] * 20, "group": range(440), "split": "reserve"}
    ).astype(str)
    use = divide(split, ["df", "vasc"], 300)
    counts = use.groupby(split.set_index("id")["label"]).value_counts().to_dict()
    assert counts == {("df", NULL): 300, ("df", REST): 120, ("vasc", NULL): 15, ("vasc", REST): 5}
