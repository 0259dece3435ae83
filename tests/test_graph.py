"""The graph in dvc.yaml: what a change reruns. Every stage is a stub here, so the whole graph runs in seconds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from tests.repository import ROOT, dvc, ran, stubbed

DEFAULT = yaml.safe_load((ROOT / "params.yaml").read_text())
REGIMES = {"real", "synth", "combined", "curriculum", "oracle", "weighted", "duplicate", "randaugment"}
#: What follows from the synthetic images of one disease.
DOWNSTREAM = {"train_synth", "train_combined", "train_curriculum", "audit", "evaluate"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub repository after a first `dvc repro`."""
    folder = stubbed(tmp_path_factory.mktemp("graph") / "repository")
    every = {"phantom", "refine", "split", "data_report", "base", "judge", "audit", "evaluate"} | {f"train_{r}" for r in REGIMES}
    every |= {f"{stage}@{disease}" for stage in ("lora_train", "generate") for disease in DEFAULT["rare"]}
    assert ran(dvc(folder, "repro")) == every
    return folder


def change(path: Path, old: str, new: str) -> None:
    """Replace the one place of `old` in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def test_a_second_repro_runs_nothing(built: Path) -> None:
    assert ran(dvc(built, "repro")) == set()


def test_the_audit_comes_last_so_that_one_that_stops_takes_no_verdict_with_it() -> None:
    """DVC runs stages that do not need one another in the order of the file."""
    assert list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])[-1] == "audit"


def test_a_changed_prompt_reruns_that_disease_and_what_follows(built: Path) -> None:
    card = yaml.safe_load((built / "data/phantom.yaml").read_text())
    card["prompts"]["df"] = ["a photo of {title}"]
    (built / "data/phantom.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    assert ran(dvc(built, "repro")) == {"lora_train@df", "generate@df"} | DOWNSTREAM


def test_an_added_disease_runs_its_own_stages_and_the_regimes(built: Path) -> None:
    change(built / "params.yaml", "rare: [df, vasc]", "rare: [df, vasc, mel]")
    reruns = ran(dvc(built, "repro"))
    assert reruns - {"split", "data_report"} == {"lora_train@mel", "generate@mel", "audit", "evaluate"} | {f"train_{r}" for r in REGIMES}


def test_an_external_set_reruns_its_own_stage_and_evaluate_and_other_data_run_nothing(built: Path) -> None:
    for other in ("ham10000", "rare_mri"):
        (built / "data/refined" / other).mkdir(parents=True)
        (built / "data/refined" / other / "file.json").write_text("{}")
    change(built / "params.yaml", "external: []", "external: [ham10000]")
    assert ran(dvc(built, "repro", "evaluate")) >= {"external@ham10000", "evaluate"}
    (built / "data/refined/ham10000/file.json").write_text("[]")
    (built / "data/refined/rare_mri/file.json").write_text("[]")
    assert ran(dvc(built, "repro", "evaluate")) == {"external@ham10000", "evaluate"}


def test_the_queue_of_the_readme_takes_every_setting_of_the_study(tmp_path: Path) -> None:
    stage = {"deps": ["stages/train.py"], "params": ["train", "train_combined", "mix"], "outs": ["models/${dataset}/combined"]}
    folder = stubbed(tmp_path / "repository", {"train_combined": stage})
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("dvc exp run --queue ")]
    for line in lines:
        dvc(folder, *shlex.split(line)[1:])
    assert len(lines) == 3 and dvc(folder, "queue", "status").count("Queued") == 4 + 3 + 2


def test_every_stage_says_what_it_does_and_has_its_script_and_its_parameters() -> None:
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        script = "train" if name.startswith("train_") else name
        assert stage["desc"], name
        assert f"python -m stages.{script} " in stage["cmd"], name
        assert f"stages/{script}.py" in stage["deps"], name
        assert (ROOT / f"stages/{script}.py").exists(), name
        assert name in DEFAULT or name in DEFAULT["evaluate"], f"{name} has no block in params.yaml"
