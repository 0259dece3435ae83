"""The arithmetic of risk: worked cases, and what must hold for any numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.risk import Answer, Finding, assess, findings, image_ratio, interval, level, odds, probability, supported, what_if
from stages.dataset.card import Ratio, Risk, Symptom

CUT = Risk(low=0.05, high=0.3)
SYMPTOMS = {
    "firm": Symptom(
        question="Firm?",
        present={"df": Ratio(value=6, low=2, high=18, source="EXAMPLE")},
        absent={"df": Ratio(value=0.5, low=0.2, high=0.8, source="Smith 2020")},
    ),
    "bled": Symptom(question="Bled?", present={"vasc": Ratio(value=2, low=1, high=4, source="EXAMPLE")}),
}
probabilities = st.floats(0.001, 0.999)
counts = st.integers(1, 1000)


def test_worked_case() -> None:
    """Prior 10% (odds 1:9), symptom x6, image p 0.5 against a prior of 0.2 in cal (x4): odds 24:9."""
    found = findings("df", SYMPTOMS, {"firm": "yes"})
    image = image_ratio(0.5, 0.2, 50, 200)
    assert image is not None and image.value == pytest.approx(4)
    result = assess(0.1, found, image, CUT)
    assert (result.prior, result.after_symptoms, result.after_image) == pytest.approx((0.1, 6 / 15, 24 / 33))
    assert result.level == "high"


def test_answers_pick_the_ratio_of_the_disease() -> None:
    no = findings("df", SYMPTOMS, {"firm": "no", "bled": "yes"})
    assert [f.ratio.value if f.ratio else None for f in no] == [0.5, None]
    assert [f.example for f in no] == [False, False]
    assert findings("df", SYMPTOMS, {"firm": "yes"})[0].example
    assert findings("df", SYMPTOMS, {}) == ()


def test_a_symptom_without_a_ratio_changes_nothing() -> None:
    found = (Finding("Bled?", "yes", None),)
    assert assess(0.2, found, None, CUT).after_symptoms == pytest.approx(0.2)


def test_the_image_is_limited_by_what_cal_supports() -> None:
    """10 with and 40 without the disease: no ratio over 40/3 or under 3/10, not even for p of 0 or 1; with 2 and 2 none but 1."""
    assert supported(10, 40) == pytest.approx((0.3, 40 / 3)) and supported(2, 2) == (1, 1)
    for p, expected in ((1.0, 40 / 3), (0.0, 0.3), (0.9999, 40 / 3)):
        ratio = image_ratio(p, 0.2, 10, 40)
        assert ratio is not None and ratio.value == pytest.approx(expected)
    assert math.isinf(image_ratio(1.0, 0.2, 10, 40).raw)  # type: ignore[union-attr]


@pytest.mark.parametrize(("prior", "positive", "negative"), [(0.0, 0, 10), (1.0, 10, 0), (0.2, 0, 10), (0.2, 10, 0)])
def test_an_image_says_nothing_when_cal_lacks_a_side(prior: float, positive: int, negative: int) -> None:
    assert image_ratio(0.7, prior, positive, negative) is None


def test_levels_at_the_cut_offs() -> None:
    assert [level(p, CUT) for p in (0.0499, 0.05, 0.2999, 0.3, 1.0)] == ["low", "intermediate", "intermediate", "high", "high"]


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, 2.0])
def test_a_certain_prior_is_refused(prior: float) -> None:
    with pytest.raises(ValueError, match="prior"):
        assess(prior, (), None, CUT)


@given(probabilities)
def test_odds_and_probability_are_inverse(p: float) -> None:
    assert probability(odds(p)) == pytest.approx(p)


@given(probabilities, probabilities, counts, counts)
def test_a_model_that_says_the_prior_says_nothing(prior: float, cal: float, n: int, m: int) -> None:
    image = image_ratio(cal, cal, n, m)
    assert image is not None and image.value == pytest.approx(1)
    assert assess(prior, (), image, CUT).after_image == pytest.approx(prior)


@given(probabilities, probabilities, probabilities, probabilities, counts, counts)
def test_more_probable_images_never_lower_the_risk(prior: float, cal: float, a: float, b: float, n: int, m: int) -> None:
    low, high = sorted((a, b))
    first, second = (assess(prior, (), image_ratio(p, cal, n, m), CUT) for p in (low, high))
    assert 0 < first.after_image <= second.after_image < 1


@given(probabilities, st.permutations(range(4)), st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_the_order_of_symptoms_does_not_matter(prior: float, order: list[int], values: list[float]) -> None:
    found = [Finding("?", "yes", Ratio(value=v, low=v, high=v, source="EXAMPLE")) for v in values]
    shuffled = tuple(found[i] for i in order)
    assert assess(prior, tuple(found), None, CUT).after_symptoms == pytest.approx(assess(prior, shuffled, None, CUT).after_symptoms)


def test_one_ratio_carries_its_own_interval_to_the_risk() -> None:
    """Prior 10% (odds 1:9) and a ratio of 6 (2 to 18): odds 2:9 to 18:9; the image, whose models agree, moves both by its ratio of 4."""
    found = findings("df", SYMPTOMS, {"firm": "yes"})
    result = assess(0.1, found, image_ratio(0.5, 0.2, 50, 200, (0.5, 0.5)), CUT)
    assert result.after_symptoms_interval == pytest.approx((2 / 11, 18 / 27))
    assert result.after_image_interval == pytest.approx((8 / 17, 72 / 81))
    assert assess(0.1, (), None, CUT).after_image_interval == pytest.approx((0.1, 0.1))


def test_the_interval_is_that_of_draws_from_the_ratios() -> None:
    """Each log ratio drawn from the normal of which its interval holds 95%: the product's middle 95% are the interval."""
    ratios = [(6.0, 2.0, 18.0), (0.5, 0.3, 0.5**2 / 0.3), (3.0, 1.0, 9.0)]
    rng = np.random.default_rng(0)
    logs = sum(rng.normal(math.log(v), math.log(high / low) / (2 * 1.959964), 200_000) for v, low, high in ratios)
    expected = [probability(odds(0.05) * math.exp(q)) for q in np.quantile(logs, [0.025, 0.975])]
    assert interval(0.05, ratios) == pytest.approx(expected, rel=0.02)


def test_the_image_brings_the_range_of_its_models_within_what_cal_supports() -> None:
    image = image_ratio(0.5, 0.2, 10, 40, (0.2, 1.0))
    assert image is not None and image.spread == pytest.approx((1, 40 / 3))
    beyond = image_ratio(0.5, 0.2, 10, 40, (0.6, 0.7))  # the ensemble has a temperature of its own
    assert beyond is not None and beyond.spread is not None and beyond.spread[0] == pytest.approx(beyond.value)
    alone = image_ratio(0.5, 0.2, 10, 40)
    assert alone is not None and alone.spread is None and assess(0.1, (), alone, CUT).after_image_interval == pytest.approx((4 / 13, 4 / 13))


@given(probabilities, st.lists(st.tuples(st.floats(0.1, 10), st.floats(1, 5), st.floats(1, 5)), max_size=4))
def test_the_risk_lies_in_its_interval_and_more_evidence_never_narrows_it(prior: float, parts: list[tuple[float, float, float]]) -> None:
    ratios = [(value, value / below, value * above) for value, below, above in parts]
    width = 0.0
    for count in range(len(ratios) + 1):
        low, high = interval(prior, ratios[:count])
        middle = probability(odds(prior) * math.prod(value for value, _, _ in ratios[:count]))
        assert low <= middle * (1 + 1e-9) and middle <= high * (1 + 1e-9)
        assert math.log(odds(high) / odds(low)) >= width - 1e-6
        width = math.log(odds(high) / odds(low))


def test_another_answer_changes_what_its_ratio_says_and_leaves_the_others() -> None:
    answers: dict[str, Answer] = {"firm": "yes", "bled": "yes"}
    told = what_if(0.1, "df", SYMPTOMS, answers, None, CUT)
    assert list(told) == ["firm"], "only questions with a ratio for the disease"
    assert told["firm"]["yes"] == assess(0.1, findings("df", SYMPTOMS, answers), None, CUT)
    assert told["firm"]["no"].after_image == pytest.approx(0.5 / 9.5) and told["firm"][None].after_image == pytest.approx(0.1)
