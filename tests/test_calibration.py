"""Temperature, thresholds and conformal sets against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from stages.classifier.calibration import conformal_quantiles, conformal_set, disease_thresholds, fit_shift, fit_temperature, shift


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(true: float) -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(20_000, 4)) * 2
    labels = np.array([rng.choice(4, p=row) for row in softmax(clean, axis=-1)])
    assert fit_temperature(clean * true, labels) == pytest.approx(true, rel=0.05)


def test_the_shift_undoes_timid_probabilities_and_a_change_in_the_mix_of_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=30_000, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(30_000, 3)) + 2.0 * np.eye(3)[labels]  # the likelihood of each class, up to a constant
    believed = softmax(1.25 * logits + np.log([0.98, 0.01, 0.01]), axis=1)  # from a train set of another mix, and too timid
    true = softmax(2.0 * logits + np.log([0.6, 0.3, 0.1]), axis=1)
    temperature, bias = fit_shift(believed, labels)
    assert temperature == pytest.approx(1.25 / 2.0, rel=0.05)
    np.testing.assert_allclose(shift(believed, temperature, bias), true, atol=0.04)
    np.testing.assert_allclose(shift(believed, temperature, bias).mean(0), [0.6, 0.3, 0.1], atol=0.01)


def test_a_class_without_a_row_is_not_calibrated_away() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [30, 10])
    p = softmax(rng.normal(size=(40, 3)) + 2 * np.eye(3)[labels], axis=1)
    temperature, bias = fit_shift(p, labels)
    assert np.isfinite(temperature) and bias[2] == pytest.approx((bias[0] + bias[1]) / 2, abs=1e-5)
    assert shift(np.array([0.1, 0.1, 0.8]), temperature, bias).argmax() == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=120))
def test_thresholds_keep_their_promise_on_cal(rows: list[tuple[float, bool]]) -> None:
    p = np.array([value for value, _ in rows], np.float32)
    positive = np.array([flag for _, flag in rows])
    cut = disease_thresholds(p, positive)
    assert cut["absent"] <= cut["present"]
    assert cut["n_positive"] == positive.sum() and cut["n_negative"] == (~positive).sum()
    if positive.any():
        assert (p[positive] >= cut["absent"]).mean() >= 0.95
    else:
        assert not (p < cut["absent"]).any()
    if (~positive).any():
        assert (p[~positive] < cut["present"]).mean() >= 0.95
    else:
        assert not (p >= cut["present"]).any()


def test_thresholds_known_answer() -> None:
    p = np.concatenate([np.arange(1, 21) / 100 + 0.3, np.arange(1, 41) / 100])  # positives 0.31..0.50, negatives 0.01..0.40
    cut = disease_thresholds(p, np.arange(60) < 20)
    assert cut == {"absent": pytest.approx(0.32, abs=2e-6), "present": pytest.approx(0.38, abs=2e-6), "n_positive": 20, "n_negative": 40}


def test_crossing_thresholds_meet() -> None:
    cut = disease_thresholds(np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, True, False, False]))
    assert cut["present"] == cut["absent"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(("alpha", "least"), [(0.1, 9), (0.05, 19)])
def test_conformal_needs_enough_lesions(alpha: float, least: int) -> None:
    p = np.tile([0.7, 0.3], (least, 1))
    assert conformal_quantiles(p[1:], np.zeros(least - 1, int), ["a", "b"], alpha) == {"a": None, "b": None}
    found = conformal_quantiles(p, np.zeros(least, int), ["a", "b"], alpha)
    assert found["a"] == pytest.approx(0.3, abs=2e-6) and found["b"] is None
    assert conformal_set(p[0], found, ["a", "b"]) is None


def test_conformal_covers_each_class() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        labels = np.repeat([0, 1, 2], 30)
        p = softmax(rng.normal(size=(90, 3)) + 1.5 * np.eye(3)[labels], axis=-1)
        cal, new = np.arange(90) % 30 < 20, np.arange(90) % 30 >= 20
        quantiles = conformal_quantiles(p[cal], labels[cal], ["a", "b", "c"], 0.1)
        sets = [conformal_set(row, quantiles, ["a", "b", "c"]) for row in p[new]]
        covered.append([chosen is not None and "abc"[label] in chosen for chosen, label in zip(sets, labels[new], strict=True)])
    rates = np.array(covered).reshape(200, 3, 10).mean(axis=(0, 2))
    assert (rates > 0.87).all() and (rates < 0.95).all()  # 19/21 for n = 20
