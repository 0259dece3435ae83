"""The laws of the design, broken one by one after a real run: the stage stops, with status 1 and one line that says why."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from stages.dataset.groups import SEEN, group_hash
from stages.dataset.table import read_table
from stages.runtime.files import read_json, sha256, write_json
from stages.runtime.launch import read_preset

Stops = Callable[[str, str], None]
DATA = ("data/smoke.yaml", "data/refined/smoke", "data/splits/smoke.csv")
BASE, SYNTHETIC, SPLIT = "models/smoke/base", "data/synthetic/smoke", Path("data/splits/smoke.csv")
ARGUMENTS = {
    "base": (*DATA, BASE),
    "judge": (*DATA, BASE, "models/smoke/judge"),
    "lora_train": ("df", *DATA, BASE, "models/smoke/lora/df"),
    "generate": ("df", *DATA, BASE, "models/smoke/lora/df", "models/smoke/judge", f"{SYNTHETIC}/df"),
    "train": ("combined", *DATA, BASE, "data/mixes/smoke/combined.csv", "models/smoke/combined", "--synthetic", SYNTHETIC),
    "audit": (*DATA, BASE, "models/smoke/lora", SYNTHETIC, "reports/smoke"),
    "evaluate": (*DATA, "models/smoke", SYNTHETIC, "reports/smoke"),
}


@pytest.fixture
def finished(smoke_repo: Path, tmp_path: Path) -> Path:
    """A copy of the finished smoke run to break, its params.yaml the preset's own; without git and DVC."""
    folder = tmp_path / "repository"
    shutil.copytree(smoke_repo, folder, ignore=shutil.ignore_patterns(".git", ".dvc", ".cache", "raw", "__pycache__"))
    values, _ = read_preset("smoke", folder / "presets", folder / "params.yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture
def stops(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str, str], None]:
    """Run a stage's script on `finished`, in this process (imports are most of its time): it must end with status 1 and one line."""

    def check(stage: str, complaint: str) -> None:
        monkeypatch.chdir(finished)
        monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py", *ARGUMENTS[stage]])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"stages.{stage}", run_name="__main__")
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert ended.value.code == 1
        assert len(errors) == 1 and complaint in errors[0], errors

    return check


def edit_split(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Write the split anew after `change`."""
    table = pd.read_csv(folder / SPLIT, dtype=str, keep_default_na=False)
    change(table).to_csv(folder / SPLIT, index=False)


def sealed_group(folder: Path, part: str = "test") -> str:
    """A group of a sealed part."""
    table = pd.read_csv(folder / SPLIT, dtype=str, keep_default_na=False)
    return str(table.loc[table["split"] == part, "group"].iloc[0])


@pytest.mark.parametrize("part", ["val", "cal", "test"])
@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_synthetic_image_in_a_sealed_part(finished: Path, stops: Stops, part: str, stage: str) -> None:
    synthetic = read_table(finished / SYNTHETIC / "df", ["id", "accepted"])
    planted = str(synthetic.loc[synthetic["accepted"], "id"].iloc[0])
    row = {"id": planted, "label": "df", "group": "planted", "split": part, "fold": ""}
    edit_split(finished, lambda table: pd.concat([table, pd.DataFrame([row])]))
    stops(stage, planted)


@pytest.mark.parametrize("stage", ["base", "judge", "lora_train", "generate", "train", "audit", "evaluate"])
def test_a_group_on_both_sides(finished: Path, stops: Stops, stage: str) -> None:
    def both(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["split"] == "test", "group"] = table.loc[table["split"] == "train", "group"].iloc[0]
        return table

    edit_split(finished, both)
    stops(stage, "a patient or lesion belongs to one side only")


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        ("judge", "test"),
        ("lora_train", "test"),
        ("generate", "test"),
        ("train", "test"),
        ("train", "val"),
        ("train", "cal"),
        ("audit", "test"),
        ("evaluate", "test"),
    ],
)
def test_a_base_that_saw_a_sealed_lesion(finished: Path, stops: Stops, stage: str, part: str) -> None:
    group = sealed_group(finished, part)
    with (finished / BASE / SEEN).open("a") as file:
        file.write(group_hash(group) + "\n")
    stops(stage, "of a sealed part")


def test_a_source_of_the_base_that_saw_a_test_lesion(finished: Path, stops: Stops) -> None:
    with (finished / "models/base" / SEEN).open("a") as file:
        file.write(group_hash(sealed_group(finished)) + "\n")
    stops("base", "of a sealed part")


@pytest.mark.parametrize("model", ["judge", "lora/df"])
def test_a_judge_or_adapter_that_saw_a_test_lesion(finished: Path, stops: Stops, model: str) -> None:
    with (finished / "models/smoke" / model / SEEN).open("a") as file:
        file.write(group_hash(sealed_group(finished)) + "\n")
    stops("generate", "of a sealed part")


@pytest.mark.parametrize(("model", "stage"), [("real/seed1", "evaluate"), ("judge/fold0", "generate"), ("lora/df/*", "generate")])
def test_a_tampered_model(finished: Path, stops: Stops, model: str, stage: str) -> None:
    path = sorted((finished / "models/smoke").glob(f"{model}.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    stops(stage, path.name)


def test_an_adapter_with_no_effect(finished: Path, stops: Stops) -> None:
    folder = finished / "models/smoke/lora/df"
    info = read_json(folder / "lora.json")
    path = folder / "pytorch_lora_weights.safetensors"
    save_file({name: weight * 0 for name, weight in load_file(path).items()}, path)
    write_json(folder / "lora.json", {**info, "sha256": {**info["sha256"], path.name: sha256(path)}})
    stops("generate", "an adapter with no effect")


def test_a_judge_that_is_an_evaluated_model(finished: Path, stops: Stops) -> None:
    judge = finished / "models/smoke/judge"
    shutil.copy(finished / "models/smoke/real/seed1.safetensors", judge / "fold0.safetensors")
    info = read_json(judge / "judge.json")
    info["weights"]["0"]["sha256"] = sha256(judge / "fold0.safetensors")
    write_json(judge / "judge.json", info)
    stops("evaluate", "the judge is not the judged")


def test_unequal_steps(finished: Path, stops: Stops) -> None:
    path = finished / "models/smoke/combined/model.json"
    info = read_json(path)
    info["training"]["steps"] += 1
    write_json(path, info)
    stops("evaluate", "unequal steps")


def test_weights_are_never_a_pickle(smoke_repo: Path) -> None:
    names = [p.name for folder in ("models", "data") for p in (smoke_repo / folder).rglob("*") if p.is_file()]
    assert any(n.endswith(".safetensors") for n in names)
    assert not [n for n in names if n.endswith((".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib"))]
