"""Scores against scikit-learn, the bootstrap against brute force, and what is said when n is too small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, recall_score, roc_auc_score

from stages.metrics import curves
from stages.metrics.classification import TOO_FEW, Truth, at_thresholds, coverage, ece, over_seeds, per_class, scores, subgroups
from stages.metrics.intervals import bootstrap, interval, lesion_weights, rank, weighted_ap

CLASSES = ["akiec", "df", "nv", "vasc"]


def make(n: int = 40, seeds: int = 3, images: int = 1, skill: float = 1.5, seed: int = 0) -> tuple[NDArray[np.float64], Truth]:
    """Probabilities (S, N, C) of `n` lesions a class with `images` images each, and their truth."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), n * images)
    truth = Truth(labels, np.repeat(np.arange(4 * n), images), CLASSES, [1, 3])
    return softmax(rng.normal(size=(seeds, len(labels), 4)) + skill * np.eye(4)[labels], axis=-1), truth


def test_scores_are_those_of_scikit_learn() -> None:
    members, truth = make()
    p, y = members[0], truth.labels
    found = scores(p, truth)
    assert found["accuracy"] == pytest.approx((p.argmax(1) == y).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
    assert found["rare_f1"] == pytest.approx(np.mean([f1_score(y == c, p.argmax(1) == c) for c in (1, 3)]))
    assert found["rare_ap"] == pytest.approx(np.mean([average_precision_score(y == c, p[:, c]) for c in (1, 3)]))
    assert found["balanced_accuracy"] == pytest.approx(recall_score(y, p.argmax(1), average="macro"))
    assert found["roc_auc_ovr"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert found["brier"] == pytest.approx(sum(brier_score_loss(y == c, p[:, c]) for c in range(4)))


def test_the_flat_file_has_twelve_numbers_the_means_over_seeds() -> None:
    members, truth = make(images=2)
    found, _ = over_seeds(members, truth)
    assert len(found) == 12
    assert found["rare_f1"] == pytest.approx(np.mean([scores(p, truth)["rare_f1"] for p in members]), abs=1e-6)
    assert (found["n_seeds"], found["n_test_lesions"], found["n_rare_lesions"]) == (3, 160, 40)


def test_two_classes_work() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(1, 80, 2)), axis=-1)
    truth = Truth(np.repeat([0, 1], 40), np.arange(80), ["glioma", "normal"], [0])
    found = scores(p[0], truth)
    assert found["rare_auc"] == pytest.approx(found["roc_auc_ovr"]) == pytest.approx(roc_auc_score(truth.labels == 0, p[0, :, 0]))


def test_ece_of_a_known_case() -> None:
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 3 + [1] * 7)
    assert ece(p, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)


def test_ece_of_calibrated_probabilities_is_small() -> None:
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(size=(20_000, 3)), axis=-1)
    assert ece(p, np.array([rng.choice(3, p=row) for row in p])) < 0.02


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40))
def test_weighted_ap_is_that_of_scikit_learn_with_repeats_and_ties(rows: list[tuple[int, bool, int]]) -> None:
    score, positive, weight = (np.array(column) for column in zip(*rows, strict=True))
    assume((positive & (weight > 0)).any())
    found = weighted_ap(rank(score.astype(float), positive), weight[:, None].astype(float))
    assert found[0] == pytest.approx(average_precision_score(positive, score, sample_weight=weight))


def test_bootstrap_is_the_brute_force_one() -> None:
    members, truth = make(n=8, seeds=2, images=2)
    resamples = 10
    found = bootstrap({"a": members, "b": members[::-1]}, truth, resamples, seed=3)
    rng = np.random.default_rng(3)
    lesions = lesion_weights(truth.lesion_labels, resamples, rng)
    draws = (rng.random((resamples, 2))[:, :1] * 2).astype(int)
    for b in range(resamples):
        rows = np.repeat(np.arange(len(truth.labels)), lesions[truth.lesions, b].astype(int))
        again = Truth(truth.labels[rows], np.arange(len(rows)), CLASSES, [1, 3])
        for regime, p in (("a", members), ("b", members[::-1])):
            parts = [scores(p[s][rows], again) for s in draws[b]]
            for score in ("rare_f1", "rare_ap", "accuracy", "balanced_accuracy", "macro_f1", "brier"):
                assert found[regime][score][b].mean() == pytest.approx(np.mean([part[score] for part in parts]))


def test_bootstrap_pairs_regimes_and_is_deterministic() -> None:
    members, truth = make(n=30)
    one = bootstrap({"a": members, "b": members}, truth, 50, seed=0)
    np.testing.assert_array_equal(one["a"]["rare_ap"], one["b"]["rare_ap"])
    np.testing.assert_array_equal(one["a"]["rare_f1"], bootstrap({"a": members}, truth, 50, seed=0)["a"]["rare_f1"])
    assert one["a"]["rare_f1"].std() > 0


def test_lesions_are_drawn_within_their_class() -> None:
    weights = lesion_weights(np.array([0, 0, 0, 1, 1]), 100, np.random.default_rng(0))
    assert (weights[:3].sum(0) == 3).all() and (weights[3:].sum(0) == 2).all()


def test_the_interval_covers_the_true_score_about_95_times_in_100() -> None:
    _, big = make(n=3000, seeds=1)
    truth_value = scores(make(n=3000, seeds=1)[0][0], big)["rare_ap"]
    hits = 0
    for k in range(60):
        members, truth = make(n=40, seeds=1, seed=k + 1)
        low, high = interval(bootstrap({"a": members}, truth, 200, seed=k)["a"]["rare_ap"].mean(1))
        hits += low <= truth_value <= high
    assert 50 <= hits <= 60


def test_no_sensitivity_under_30_lesions() -> None:
    members, truth = make(n=29, images=3)
    assert {entry["recall"] for entry in per_class(members, truth).values()} == {TOO_FEW}
    enough, bigger = make(n=30)
    assert per_class(enough, bigger)["df"]["recall"] == pytest.approx(
        np.mean([recall_score(bigger.labels == 1, p.argmax(1) == 1) for p in enough]), abs=1e-6
    )
    cut: dict[str, Any] = {"df": {"present": 0.4, "absent": 0.1}}
    assert at_thresholds(members.mean(0), truth, cut)["df"]["sensitivity"] == {"value": TOO_FEW, "n": 29}


def test_thresholds_are_held_against_lesions() -> None:
    truth = Truth(np.repeat([1, 0], 60), np.repeat(np.arange(60), 2), CLASSES, [1, 3])
    p = np.zeros((120, 4))
    p[:60, 1], p[60:, 1] = np.tile([0.9, 0.3], 30), 0.05  # every df lesion has a clear and an unclear image: 0.6 on average
    found = at_thresholds(p, truth, {"df": {"present": 0.5, "absent": 0.1}})["df"]
    assert found["sensitivity"]["value"] == 1.0 and found["sensitivity"]["n"] == 30
    assert found["ruled_out"]["value"] == 1.0 and found["missed"]["value"] == 0.0 and found["cannot_say"]["value"] == 0.0


def test_coverage_counts_sets_that_hold_the_truth() -> None:
    members, truth = make()
    everything: dict[str, float | None] = dict.fromkeys(CLASSES, 1.0)
    found = coverage(members.mean(0), truth, {"0.90": everything, "0.95": {**everything, "df": None}})
    assert found["0.90"]["mean_size"] == 4 and found["0.90"]["covered"]["df"]["value"] == 1.0
    assert found["0.95"] == TOO_FEW


def test_subgroups_of_30_lesions_only() -> None:
    members, truth = make()
    table = pd.DataFrame({"sex": ["f"] * 20 + ["m"] * 130 + [None] * 10, "age": [30.0] * 80 + [70.0] * 79 + [np.nan]})
    found = subgroups(members.mean(0), truth, table)
    assert found["sex"]["f"]["accuracy"] == {"value": TOO_FEW, "n": 20} and found["sex"]["m"]["accuracy"]["n"] == 130
    assert set(found["age"]) == {"under 40", "60 and over"}
    right = members.mean(0).argmax(1) == truth.labels
    assert found["age"]["under 40"]["accuracy"]["value"] == pytest.approx(right[:80].mean(), abs=1e-6)
    assert found["age"]["under 40"]["recall"]["df"]["n"] == 40 and found["age"]["under 40"]["recall"]["vasc"]["value"] == TOO_FEW


def test_curves_of_a_perfect_and_a_known_classifier() -> None:
    truth = Truth(np.array([1, 1, 0, 0]), np.arange(4), CLASSES[:2], [1])
    perfect = np.array([[[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]]])
    assert (curves.roc(perfect, truth)["tpr"].iloc[1:] == 1).all() and (curves.precision_recall(perfect, truth)["precision"] == 1).all()
    worse = np.array([[[0.1, 0.9], [0.7, 0.3], [0.6, 0.4], [0.8, 0.2]]])  # second positive behind one negative
    table = curves.precision_recall(worse, truth).set_index("recall")["precision"]
    assert table[0.5] == 1 and table[0.51] == pytest.approx(2 / 3, abs=1e-6) and table[1.0] == pytest.approx(2 / 3, abs=1e-6)
    assert curves.roc(worse, truth).set_index("fpr")["tpr"][0.5] == 1
