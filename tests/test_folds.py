"""Folds of the test set: one run a fold, resumed where it stopped, one verdict on the pool."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import softmax

from stages import folds
from stages.dataset.table import write_table
from stages.metrics.verdict import AA, WHAT
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json, write_text
from stages.runtime.params import REGIMES
from tests.repository import ROOT

CLASSES = sorted(yaml.safe_load((ROOT / "data/phantom.yaml").read_text())["classes"])
SEEDS = [1, 2, 3]
TRAINED = [r for r in REGIMES if r != "oracle"]


def predictions(fold: int, seeds: list[int] = SEEDS) -> pd.DataFrame:
    """plots/predictions.parquet of a fold: seven lesions a class; combined knows, the others guess."""
    ids = [f"f{fold}-{c}-{k}" for c in CLASSES for k in range(7)]
    images = pd.DataFrame({"id": ids, "group": [f"g{i}" for i in ids], "label": [i.split("-")[1] for i in ids]})
    hot = np.eye(len(CLASSES))[images["label"].map(CLASSES.index)]
    parts = []
    for regime in (*TRAINED, "logit_adjust", AA):
        for seed in seeds:
            rng = np.random.default_rng([fold, seed, *regime.encode()])
            p = softmax(rng.normal(size=hot.shape) + (6.0 if regime == "combined" else 1.0) * hot, axis=1)
            parts.append(images.assign(regime=regime, seed=seed, **{f"p_{c}": p[:, k] for k, c in enumerate(CLASSES)}))
    return pd.concat(parts, ignore_index=True)


class Graph:
    """Stands in for `dvc repro`: leaves what evaluate and train leave; `stops` at the folds named."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.stops: set[int] = set()

    def __call__(self, command: list[str], hold: int) -> int:
        params = yaml.safe_load(Path("params.yaml").read_text())
        fold = params["split"]["fold"]
        self.ran.append(fold)
        if fold in self.stops:
            return 1
        shown = {str(s): {c: {"real": fold, "synthetic": 2, "oracle": 0} for c in CLASSES} for s in SEEDS}
        training = {
            "class_weighting": 0.0,
            "randaugment": False,
            "logit_tau": 0.0,
            "real_weight": 1.0,
            "repeats": 0,
            "select": "random",
            "start_sha256": "s",
        }
        for regime in TRAINED:
            write_json(Path("models/tiny", regime, "model.json"), {"exposures": shown, "training": training})
        write_json(Path("models/tiny/oracle/absent.json"), {"regime": "oracle", "reason": "none to spare"})
        write_json(Path("models/tiny/base/base.json"), {"source": "models/base", "known_groups": True})
        write_json(Path("reports/tiny/data.json"), {"warnings": [f"age goes with it (0.{fold})", *["odd"] * (not fold)], "shortcut": {}})
        write_table(Path("reports/tiny/plots/predictions.parquet"), predictions(fold))
        return 0


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """A place with a preset of five folds and a graph that takes no time."""
    card = yaml.safe_load((ROOT / "data/phantom.yaml").read_text())
    write_text(tmp_path / "data/tiny.yaml", yaml.safe_dump(card | {"name": "tiny"}))
    (tmp_path / "data/raw/tiny").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    preset: dict[str, Any] = {"dataset": "tiny", "train": {"seeds": SEEDS}, "train_real": {"aa_seeds": [4, 5, 6]}}
    write_text(tmp_path / "presets/tiny.yaml", yaml.safe_dump(preset | {"evaluate": {"bootstrap": 100, "min_seeds": 3}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["folds", "tiny"])
    stub = Graph()
    monkeypatch.setattr(folds, "call", stub)
    return stub


def test_the_folds_are_run_one_by_one_and_pooled_and_a_stopped_run_goes_on(graph: Graph) -> None:
    params = Path("params.yaml").read_text()
    graph.stops = {3}
    with pytest.raises(SystemExit):
        folds.run_folds("tiny")
    assert graph.ran == [0, 1, 2, 3] and Path("params.yaml").read_text() == params
    graph.stops = set()
    folds.main()
    assert graph.ran == [0, 1, 2, 3, 3, 4], "finished folds are not run again"
    verdict = read_json("reports/tiny/verdict.json")
    assert verdict["folds"] == 5 and verdict["n_test_lesions"] == 5 * 7 * len(CLASSES) and verdict["helps"] is True and verdict["seeds"] == SEEDS
    assert set(verdict["controls"]) == {"real", "weighted", "duplicate", "randaugment", "logit_adjust"} and verdict["oracle_share"] is None
    text = Path("reports/tiny/verdict.md").read_text()
    assert (
        "make folds PRESET=tiny" in text
        and text.count("age goes with it (0.0) (said in 5 of 5 folds") == 1
        and "odd (said in 1 of 5 folds" in text
        and "No oracle: none to spare" in text
    )
    assert {p.stem for p in Path("reports/tiny/metrics").iterdir()} == set(WHAT) - {"oracle"}
    detail = read_json("reports/tiny/detail/combined.json")
    assert np.sum(detail["confusion"]["counts"]) == 245 and detail["exposures"]["1"]["df"] == {"real": 2.0, "synthetic": 2.0, "oracle": 0.0}

    write_text(Path("presets/tiny.yaml"), Path("presets/tiny.yaml").read_text().replace("bootstrap: 100", "bootstrap: 90"))
    folds.run_folds("tiny")
    assert graph.ran[6:] == [0, 1, 2, 3, 4], "a changed parameter runs every fold anew"


def test_a_lesion_of_two_folds_or_other_seeds_are_refused() -> None:
    with pytest.raises(UserError, match="tested in two folds"):
        folds.pool([predictions(0), predictions(0)], CLASSES, ["df"])
    with pytest.raises(UserError, match="different seeds"):
        folds.pool([predictions(0), predictions(1, [1, 2])], CLASSES, ["df"])


def test_the_pool_keeps_each_seed_and_image_in_its_place() -> None:
    members, truth = folds.pool([predictions(1), predictions(0).sample(frac=1, random_state=0)], CLASSES, ["df", "vasc"])
    assert members["real"].shape == (3, 98, 7) and int(truth.n_lesions.sum()) == 98 and truth.rare == [CLASSES.index("df"), CLASSES.index("vasc")]
    assert (members["combined"].argmax(2) == truth.labels).mean() > 0.9 > (members["real"].argmax(2) == truth.labels).mean()
