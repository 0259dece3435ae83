"""The verdict: a planted win helps, nothing else does, and the words say which."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from stages.metrics import report
from stages.metrics.classification import Truth, over_seeds
from stages.metrics.intervals import bootstrap
from stages.metrics.verdict import (
    AA,
    CONTROLS,
    WHAT,
    aa_statement,
    decide,
    difference,
    difference_rows,
    oracle_statement,
    score_rows,
    share,
    statement,
)
from stages.runtime.markdown import markdown
from stages.runtime.params import REGIMES

CLASSES = ["df", "mel", "nv"]


@cache
def judge(
    gain: float, lesions: int = 60, seeds: int = 5, min_seeds: int = 5, behind: str | None = None, ceiling: float | None = None
) -> tuple[dict[str, Any], Truth]:
    """The verdict on a candidate whose logits of the true class are higher by `gain`; one control, `behind`, is as good as it.

    With `ceiling` there is an oracle, whose logits are higher by that.
    """
    labels = np.repeat(np.arange(3), lesions)
    truth = Truth(labels, np.arange(3 * lesions), CLASSES, [0])
    hot = np.eye(3)[labels]
    lesion = np.random.default_rng(0).normal(size=(len(labels), 3))  # what is hard about a lesion is hard for every regime

    def run(seed: int, skill: float) -> np.ndarray[Any, Any]:
        noise = np.random.default_rng(seed).normal(size=(seeds, len(labels), 3))
        return softmax(0.8 * lesion + 0.5 * noise + (1.0 + skill) * hot, axis=-1)

    skills = {**dict.fromkeys((*CONTROLS, AA), 0.0), "combined": gain, **({behind: gain} if behind else {})}
    skills |= {} if ceiling is None else {"oracle": ceiling}
    members = {name: run(k, skill) for k, (name, skill) in enumerate(skills.items())}
    boots = bootstrap(members, truth, 300, seed=0)
    means = {name: over_seeds(p, truth)[0] for name, p in members.items()}
    return decide("combined", list(range(1, seeds + 1)), truth.n_lesions, truth.rare, means, boots, min_seeds), truth


def test_a_planted_win_helps() -> None:
    verdict, _ = judge(gain=1.5)
    assert verdict["helps"] is True
    assert statement(verdict, 60, 5) == "synthesis helps"
    assert all(entry["low"] > 0 for found in verdict["controls"].values() for entry in found.values())


def test_no_difference_is_no_evidence() -> None:
    verdict, _ = judge(gain=0.0)
    assert verdict["helps"] is False
    assert statement(verdict, 60, 5) == "no evidence that synthesis helps"


def test_a_loss_is_told_as_one() -> None:
    verdict, _ = judge(gain=0.0)
    for score in ("rare_f1", "rare_ap"):
        verdict["controls"]["duplicate"][score] = {"diff": -0.02, "low": -0.04, "high": -0.001}
    verdict["controls"]["weighted"]["rare_f1"] = {"diff": -0.02, "low": -0.04, "high": 0.0}
    assert statement(verdict, 60, 5) == "no evidence that synthesis helps, and it is worse than duplicate (rare F1 and rare AP)"


@pytest.mark.parametrize("control", CONTROLS)
def test_one_control_that_is_as_good_is_enough_to_refuse(control: str) -> None:
    verdict, _ = judge(gain=1.5, behind=control)
    assert verdict["helps"] is False


def test_both_scores_must_win() -> None:
    boots: dict[str, Any] = {name: {"rare_f1": np.full((100, 1), 0.5), "rare_ap": np.full((100, 1), 0.5)} for name in CONTROLS}
    boots["combined"] = {"rare_f1": np.full((100, 1), 0.7), "rare_ap": np.full((100, 1), 0.5)}
    means = {name: {score: float(values.mean()) for score, values in found.items()} for name, found in boots.items()}
    again = decide("combined", [1, 2, 3, 4, 5], np.array([60]), [0], means, boots, 5)
    assert again["controls"]["real"]["rare_f1"]["low"] > 0 and again["helps"] is False


def test_real_against_real_is_no_evidence() -> None:
    verdict, _ = judge(gain=1.5)
    assert all(entry["low"] <= 0 <= entry["high"] for entry in verdict["aa"].values())
    assert "no evidence" in aa_statement(verdict)


def test_a_false_difference_in_real_against_real_is_called_out() -> None:
    verdict, _ = judge(gain=1.5)
    win = verdict["controls"]["real"]
    loss = {score: {"diff": -e["diff"], "low": -e["high"], "high": -e["low"]} for score, e in win.items()}
    for found in (win, loss):
        said = aa_statement({**verdict, "aa": found})
        assert "do not rely" in said and "no evidence" not in said
    lone = aa_statement({**verdict, "aa": {"rare_f1": win["rare_f1"], "rare_ap": {"diff": 0.0, "low": -0.1, "high": 0.1}}})
    assert "no evidence of a difference on both scores, but rare F1" in lone and "rare AP" not in lone
    assert "not run" in aa_statement({**verdict, "aa": None})


def test_four_seeds_are_not_enough() -> None:
    verdict, _ = judge(gain=1.5, seeds=4)
    assert verdict["helps"] is False
    assert statement(verdict, 60, 5).startswith("not enough seeds (4 of 5)")


def test_29_lesions_are_too_few() -> None:
    verdict, truth = judge(gain=3.0, lesions=29)
    assert verdict["helps"] is False
    assert statement(verdict, int(truth.n_lesions[0]), 5).startswith("no claim: too few lesions (29 of 30")


def test_the_file_has_the_keys_of_the_design() -> None:
    verdict, _ = judge(gain=0.0)
    assert set(verdict) == {"candidate", "seeds", "n_test_lesions", "helps", "controls", "aa", "oracle_share", "controls_share"}
    assert set(verdict["controls"]) == {"real", "weighted", "duplicate", "randaugment", "logit_adjust"}
    for found in [*verdict["controls"].values(), verdict["aa"]]:
        assert {score: set(entry) for score, entry in found.items()} == {score: {"diff", "low", "high"} for score in ("rare_f1", "rare_ap")}
    assert verdict["n_test_lesions"] == 180 and verdict["oracle_share"] is None


def test_the_candidate_recovers_a_share_of_what_the_oracle_gains() -> None:
    part, all_of_it = (judge(gain=gain, ceiling=1.5)[0] for gain in (0.75, 1.5))
    for score in ("rare_f1", "rare_ap"):
        found, whole = part["oracle_share"][score], all_of_it["oracle_share"][score]
        assert found["low"] <= found["value"] <= found["high"] and 0.2 < found["value"] < 0.9
        assert whole["value"] == pytest.approx(1, abs=0.15) and whole["low"] < 1 < whole["high"]
    said = oracle_statement(part)
    assert "recovers: rare F1 " in said and " to " in said
    assert set(part["controls_share"]) == {"weighted", "duplicate", "randaugment", "logit_adjust"}
    weighted = part["controls_share"]["weighted"]
    assert f"Without any synthetic image: `weighted` {weighted['rare_f1']['value']:.0%} / {weighted['rare_ap']['value']:.0%}" in said


def test_an_oracle_that_gains_nothing_has_no_share() -> None:
    verdict, _ = judge(gain=1.5, ceiling=0.0)
    assert verdict["oracle_share"] is None and "not given" in oracle_statement(verdict)
    boots = {name: {"rare_f1": np.full((100, 1), value), "rare_ap": np.full((100, 1), 0.5)} for name, value in
             (("real", 0.5), ("combined", 0.6), ("oracle", 0.7))}  # fmt: skip
    means = {name: {score: float(values.mean()) for score, values in found.items()} for name, found in boots.items()}
    lone = share("combined", means, boots)
    assert lone is not None and lone["rare_ap"] is None and lone["rare_f1"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert "rare AP not given" in oracle_statement({"candidate": "combined", "oracle_share": lone})


def test_the_difference_lies_in_its_interval_and_pairing_narrows_it() -> None:
    verdict, _ = judge(gain=0.5)
    for entry in verdict["controls"]["real"].values():
        assert entry["low"] <= entry["diff"] <= entry["high"]
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 1))
    boots = {name: {"rare_f1": shared + k, "rare_ap": shared + k} for k, name in enumerate(("b", "a"))}
    means = {"a": {"rare_f1": 1.0, "rare_ap": 1.0}, "b": {"rare_f1": 0.0, "rare_ap": 0.0}}
    assert difference("a", "b", means, boots)["rare_f1"] == {"diff": 1.0, "low": 1.0, "high": 1.0}


def test_every_regime_is_described_and_in_the_tables() -> None:
    assert set(WHAT) == {*REGIMES, "logit_adjust"}
    verdict, _ = judge(gain=0.0)
    text = markdown(difference_rows(verdict))
    assert all(f"minus {name}" in text for name in CONTROLS) and "A/A" in text
    one = {"rare_f1": 0.5, "rare_ap": 0.25, "macro_f1": 0.6, "accuracy": 0.7, "ece": 0.1}
    assert [row[0] for row in score_rows(dict.fromkeys(WHAT, one))[1:]] == list(WHAT)


def facts(**changes: Any) -> report.Facts:
    """The facts of a phantom run, changed."""
    base = {"known_groups": True, "source": "models/base"}
    values: dict[str, Any] = {
        "title": "Phantoms", "dataset": "phantom", "phantom": True, "answer": "no evidence that synthesis helps",
        "n_lesions": {"df": 60, "mel": 60, "nv": 60}, "n_images": 180, "rare": ["df"], "titles": {}, "bootstrap": 300, "base": base,
        "warnings": ["border brightness alone separates the classes"], "start": "0" * 64, "shortcuts": [],
        "absent": {"oracle": "none to spare"}, "how": "", "made": "`dvc repro`",
    }  # fmt: skip
    return report.Facts(**{**values, **changes})


def document(about: report.Facts) -> str:
    """verdict.md of a run without a gain."""
    verdict, truth = judge(gain=0.0)
    shown = {str(s): {c: {"real": 10, "synthetic": 4, "oracle": 0} for c in CLASSES} for s in range(1, 6)}
    spread = {"value": 0.5, "low": 0.4, "high": 0.6}
    details = {
        name: {"seeds": [1, 2, 3, 4, 5], "exposures": shown, "intervals": dict.fromkeys(("rare_f1", "rare_ap", "macro_f1", "accuracy"), spread)}
        for name in WHAT
    }
    metrics = {name: over_seeds(softmax(np.eye(3)[truth.labels], axis=-1)[None], truth)[0] for name in WHAT}
    return report.document(verdict, metrics, details, about)


def test_a_shortcut_stands_before_the_first_score_and_once() -> None:
    told = "a model can score well here without seeing the disease: the border alone"
    text = document(facts(warnings=[told, "one site only"], shortcuts=[told]))
    assert text.count(told) == 1 and text.index(told) < text.index("Candidate") and "Data: one site only" in text


def test_the_document_opens_with_the_answer_and_carries_the_warnings() -> None:
    text = document(facts())
    assert text.splitlines()[0] == "# Phantoms: no evidence that synthesis helps"
    assert "figures/verdict.png" in text and "drawings, not patients; the base knew this renderer" in text
    assert "set counts per class" in text and "border brightness alone" in text and "dvc repro" in text and "no evidence of a difference" in text


def test_an_unknown_base_and_few_lesions_are_said() -> None:
    base = {"known_groups": False, "source": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    text = document(facts(phantom=False, base=base, n_lesions={"df": 12, "mel": 60, "nv": 60}, start="timm pretrained"))
    assert text.count("pre-training set unknown, may contain public test images") == 2
    assert "df (12)" in text and "drawings" not in text


def test_a_smoke_run_says_so_in_its_first_line() -> None:
    assert document(facts(dataset="smoke")).splitlines()[0].startswith("# SMOKE RUN: checks the machinery, says nothing about synthesis")
    assert "SMOKE RUN" in facts(dataset="smoke").marks and "SMOKE" not in facts().marks
