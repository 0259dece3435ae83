"""The real pipeline on tiny parameters: `make reproduce PRESET=smoke`, and what DVC does with its results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.runtime.files import read_json, sha256
from stages.runtime.launch import read_preset
from stages.runtime.params import REGIMES
from tests.repository import ROOT, checkout, command, commit, dvc, git, ran

LAUNCH = ("-m", "stages.runtime.launch", "smoke")
OWN_LOCK = Path("reports/smoke/dvc.lock")
CONTROLS_AND_MORE = {*REGIMES, "logit_adjust"}


def hashes(path: Path) -> dict[str, str]:
    """SHA-256 of the file `path`, or of each file in the folder `path`, by relative path."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): sha256(file) for file in files}


@pytest.fixture(scope="module")
def as_default(smoke_repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the smoke run is the default: its values in params.yaml, its lock as dvc.lock, its reports in git."""
    folder = tmp_path_factory.mktemp("as_default") / "repository"
    shutil.copytree(smoke_repo, folder, symlinks=True)
    values, _ = read_preset("smoke", folder / "presets", folder / "params.yaml")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copy(folder / OWN_LOCK, folder / "dvc.lock")
    ignored = (folder / ".gitignore").read_text()
    (folder / ".gitignore").write_text(ignored.replace("/reports/smoke/\n", ""))
    commit(folder)
    return folder


def test_every_stage_ran_and_left_its_outputs(smoke_repo: Path) -> None:
    lock = yaml.safe_load((smoke_repo / OWN_LOCK).read_text())["stages"]
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    graph.pop("external")  # none is named in evaluate.external
    expected = {f"{name}@{disease}" if "matrix" in stage else name for name, stage in graph.items() for disease in ("df", "vasc")}
    assert set(lock) == expected
    for stage in lock.values():
        for out in stage["outs"]:
            assert (smoke_repo / out["path"]).exists(), out["path"]
            assert "smoke" in out["path"] or out["path"] == "models/base"


def test_what_a_reader_sees_is_marked_as_a_smoke_run(smoke_repo: Path) -> None:
    assert "smoke run" in (smoke_repo / "reports/smoke/verdict.md").read_text().lower()
    assert "smoke run" in (smoke_repo / "reports/smoke/data.md").read_text().lower()
    for regime in REGIMES:
        assert read_json(smoke_repo / f"models/smoke/{regime}/model.json")["dataset"] == "smoke"


def test_the_table_the_verdict_and_the_next_commands_are_printed(smoke_repo: Path) -> None:
    log = (smoke_repo.parent / "smoke.log").read_text()
    for regime in REGIMES:
        assert f"| {regime} " in log
    assert "not enough seeds" in log.lower()
    assert "make app" in log


def test_the_default_is_as_it_was(smoke_repo: Path) -> None:
    assert (smoke_repo / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    committed = git(smoke_repo, "ls-files", "dvc.lock") != ""
    assert (smoke_repo / "dvc.lock").exists() == committed
    assert git(smoke_repo, "status", "--porcelain") == ""


def test_a_second_run_runs_nothing(smoke_repo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(smoke_repo, copy, symlinks=True)
    assert ran(command(copy, *LAUNCH).stdout) == set()
    assert (copy / OWN_LOCK).read_bytes() == (smoke_repo / OWN_LOCK).read_bytes()


def test_predict_gives_a_row_a_file(smoke_repo: Path, tmp_path: Path) -> None:
    images = sorted((smoke_repo / "data/raw/smoke/images").iterdir())[:5]
    (tmp_path / "images").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "images")
    command(smoke_repo, "-m", "stages.predict", "models/smoke/combined", str(tmp_path / "images"), str(tmp_path / "predictions.csv"))
    table = pd.read_csv(tmp_path / "predictions.csv")
    fine = table[table["status"] == "ok"]
    assert set(table["status"]) <= {"ok", "refused"} and len(table) == 5 and len(fine) >= 4  # of its own kind up to 5% are refused
    assert fine.filter(like="p_").sum(axis=1).round(3).eq(1).all()


def test_the_share_of_test_images_that_are_refused_is_reported(smoke_repo: Path) -> None:
    record = read_json(smoke_repo / "models/smoke/combined/model.json")["ood"]
    found = read_json(smoke_repo / "reports/smoke/detail/combined.json")["refused"]
    assert set(found) == set(record["limits"]) and all(share["value"] <= 0.3 for share in found.values())


def test_metrics_show_gives_regimes_as_rows(as_default: Path) -> None:
    table = dvc(as_default, "metrics", "show", "--md")
    for regime in CONTROLS_AND_MORE:
        assert f"{regime}.json" in table
    flat = read_json(as_default / "reports/smoke/metrics.json")
    assert len(flat) <= 12 and {"rare_f1", "rare_ap"} <= flat.keys()
    assert all(isinstance(value, (int, float)) for value in flat.values())


def test_the_recipe_that_compares_two_regimes(as_default: Path) -> None:
    for regime in ("combined", "real"):  # combined is what stands: nothing runs
        assert ran(dvc(as_default, "exp", "run", "-n", regime, "-S", f"evaluate.regime={regime}")) <= {"evaluate"}
    shown = dvc(as_default, "metrics", "diff", "real", "combined", "--all", "--md")
    for key, value in read_json(as_default / "reports/smoke/metrics/real.json").items():
        assert key in shown and f"{value:.5g}"[:5] in shown, shown


def test_plots_show_overlays_the_regimes(as_default: Path, tmp_path: Path) -> None:
    dvc(as_default, "plots", "show", "-o", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    assert "roc.csv" in page
    for regime in REGIMES:
        assert f'"{regime}"' in page


def test_push_and_pull_bring_the_models_without_training(as_default: Path, tmp_path: Path) -> None:
    dvc(as_default, "remote", "add", "-d", "store", str(tmp_path / "store"))
    dvc(as_default, "push")
    git(as_default, "commit", "-qam", "remote")
    git(tmp_path, "clone", "-q", str(as_default), "second")
    second = tmp_path / "second"
    assert not (second / "models/smoke").exists()
    dvc(second, "pull")
    for regime in REGIMES:
        for file in sorted((as_default / f"models/smoke/{regime}").iterdir()):
            assert (second / f"models/smoke/{regime}" / file.name).read_bytes() == file.read_bytes()
    assert ran(dvc(second, "repro")) == set()


@pytest.mark.slow
def test_two_runs_from_empty_caches_give_the_same_bytes(smoke_repo: Path, tmp_path: Path) -> None:
    second = checkout(tmp_path / "elsewhere")
    values, _ = read_preset("smoke", second / "presets", second / "params.yaml")
    (second / "params.yaml").write_text(yaml.safe_dump(values))
    command(second, "-m", "tests.one_process", str(smoke_repo / OWN_LOCK))
    outs = [out["path"] for stage in yaml.safe_load((smoke_repo / OWN_LOCK).read_text())["stages"].values() for out in stage["outs"]]
    assert len(outs) > 20
    for out in outs:
        first, again = hashes(smoke_repo / out), hashes(second / out)
        assert first and first.keys() == again.keys(), out
        assert [name for name in first if first[name] != again[name]] == [], out
