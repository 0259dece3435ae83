"""The study on val: equal tries, nothing sealed but val is read, a stopped study goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages import study
from stages.dataset.table import read_table, write_table
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json, write_text
from stages.runtime.params import read_params
from tests.repository import ROOT
from tests.test_evaluate import CLASSES, RARE, Workplace

TRIES: dict[str, list[dict[str, Any]]] = {
    "combined": [{"mix": {"per_class": 1}}, {"mix": {"per_class": 2}}, {"train_combined": {"real_weight": 2.0}}],
    "duplicate": [{"mix": {"per_class": 1}}, {"mix": {"per_class": 2}}, {"train_duplicate": {"class_weighting": 0.5}}],
    "logit_adjust": [{"evaluate": {"logit_tau": tau}} for tau in (0.5, 1.0, 2.0)],
}


START = {
    "combined": {"mix": {"per_class": 3}, "train_combined": {"real_weight": 1.0}},
    "duplicate": {"mix": {"per_class": 3}, "train_duplicate": {"class_weighting": 0.0}},
    "logit_adjust": {"evaluate": {"logit_tau": 0.0}},
}


def write_study(root: Path, **changes: Any) -> None:
    """params.yaml of the repository with a small study."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["study"] = {"seeds": [1, 2], "start": START, "tries": TRIES} | changes
    params["train"]["logit_taus"] = [0.0, 1.0]
    params["rare"], params["evaluate"]["bootstrap"], params["refine"]["size"] = RARE, 20, 8
    params["mix"]["per_class"] = 3
    write_text(root / "params.yaml", yaml.safe_dump(params))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A workplace to study in, and what was trained there: regime, per_class, seeds, class weights, what was shown."""
    place = Workplace(tmp_path)
    write_study(tmp_path)
    write_json(place.models / "base/base.json", {"backbone_name": "none", "hash": "h"})
    judged = {f"p_{c}": 0.1 for c in CLASSES}
    for disease in RARE:  # what stage generate writes besides
        table = read_table(place.synthetic / disease).assign(slot=range(8), attempt=0, **judged | {f"p_{disease}": np.linspace(0.2, 0.9, 8)})
        write_table(place.synthetic / disease / "part.parquet", table)
    calls: list[tuple[Any, ...]] = []

    def train_seeds(params: Any, regime: str, classes: Any, rows: Any, pool: Any, shown: Any, labels: Any, *_: Any) -> dict[int, Any]:
        calls.append((regime, params.mix.per_class, params.regime(regime).class_weighting, sorted(shown)))
        assert set(rows["seed"]) == {1, 2} and len(shown["val"]) == len(labels) == 6 and set(rows["id"]) <= set(pool.index)
        logits = np.random.default_rng(len(calls)).normal(size=(6, 3)).astype(np.float32)
        assert params.regime(regime).logit_tau == 0, "tau is laid on what is trained once"
        return {s: {"logits": {"val": logits}, "prior": np.array([0.1, 0.8, 0.1])} for s in (1, 2)}

    monkeypatch.setattr(study, "train_seeds", train_seeds)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", "study card.yaml refined split.csv models/base synthetic report".split())
    return calls


def test_every_try_is_reported_with_its_scores_and_a_second_study_trains_what_is_new(trained: list[tuple[Any, ...]]) -> None:
    study.main()
    assert [call[:2] for call in trained] == [("combined", 1), ("combined", 2), ("combined", 3), ("duplicate", 1), ("duplicate", 2),
                                              ("duplicate", 3), ("real", 3)]  # fmt: skip
    assert all(call[3] == ["val"] for call in trained), "cal and test are not read"
    found = read_json("report/study.json")
    assert [(one["regime"], one["changes"]) for one in found["tries"]] == [(regime, change) for regime, tries in TRIES.items() for change in tries]
    assert all(len(one["val"][score]["seeds"]) == 2 for one in found["tries"] for score in study.SCORES) and found["n_val_lesions"] == 6
    assert all(one["val"]["rare_f1"]["low"] <= one["val"]["rare_f1"]["high"] for one in found["tries"])
    assert {one["logit_tau"] for one in found["tries"] if one["regime"] != "logit_adjust"} == {0.0, 1.0}
    assert all(
        one["merit"] == pytest.approx((one["val"]["rare_f1"]["value"] + one["val"]["rare_ap"]["value"]) / 2, abs=1e-5) for one in found["tries"]
    )
    assert [one["logit_tau"] for one in found["tries"] if one["regime"] == "logit_adjust"] == [0.5, 1.0, 2.0]
    text = Path("report/study.md").read_text()
    assert "- combined: `mix: {per_class: 3}, train_combined: {real_weight: 1.0}`" in text
    assert "2 seeds; 3 tries a regime" in text and "train_combined: {real_weight: 2.0}" in text and Path("report/study.png").exists()
    before = {p.name: p.read_bytes() for p in sorted(Path("report").glob("study.*"))}
    study.main()
    assert len(trained) == 7 and before == {p.name: p.read_bytes() for p in sorted(Path("report").glob("study.*"))}

    changed = TRIES | {"duplicate": [{"mix": {"per_class": 3}}, *TRIES["duplicate"][1:]]}
    write_study(Path(), tries=changed)
    study.main()
    assert [call[:2] for call in trained[7:]] == [("duplicate", 3)]


@pytest.mark.parametrize(
    ("tries", "complaint"),
    [
        ({**TRIES, "duplicate": TRIES["duplicate"][:2]}, "unequal tries: combined has 3, duplicate has 2"),
        (
            {"combined": [{"train_combined": {"logit_tau": 1.0}}]},
            "a try of combined changes logit_tau; every try is scored at each of train.logit_taus",
        ),
        ({"combined": [{"train": {"steps": 999}}]}, "a try of combined changes train; it may change mix and train_combined only"),
        ({"combined": [{"mix": {"select": "hard"}}]}, "a try of combined changes mix.select; write in start.combined from what"),
        ({"combined": [{"mix": {"per_class": 3}}, {"train_combined": {"real_weight": 1.0}}]}, "try 2 of combined is the same as try 1"),
        ({"combine": [{"mix": {"per_class": 3}}]}, "combine"),
    ],
)
def test_unequal_care_is_refused(tmp_path: Path, tries: dict[str, Any], complaint: str) -> None:
    write_study(tmp_path, tries=tries)
    with pytest.raises(UserError, match=complaint):
        read_params(tmp_path / "params.yaml")


def test_off_without_quotes_is_understood(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("  select: easy\n", "  select: off\n"))
    assert read_params(tmp_path / "params.yaml").mix.select == "off"
