"""`python -m stages.runtime.launch`, which `make reproduce` calls: a preset leaves nothing of itself in params.yaml and dvc.lock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages.runtime import launch
from stages.runtime.errors import UserError
from stages.runtime.ids import keyed
from stages.runtime.launch import environment, maker, merge, require_images
from stages.runtime.params import read_params
from tests.repository import IDENTITY, ROOT, command, dvc, git, ran, stubbed

LAUNCH = ("-m", "stages.runtime.launch")
STAGES = {
    "phantom": {"deps": ["stages/phantom.py"], "params": ["phantom"], "outs": ["data/raw/${phantom.name}"]},
    "data_report": {"deps": ["data/raw/${dataset}"], "params": ["threads"], "outs": [{"reports/${dataset}/data.json": {"cache": False}}]},
    "evaluate": {"deps": ["reports/${dataset}/data.json"], "params": ["evaluate"], "outs": ["models/${dataset}/combined"]},
    "audit": {"deps": ["data/raw/${dataset}"], "params": ["audit"], "outs": ["reports/${dataset}/audit"]},
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of four stub stages."""
    return stubbed(tmp_path_factory.mktemp("launch") / "repository", STAGES)


def test_a_preset_builds_its_own_results_and_the_default_its_own(repository: Path) -> None:
    params = (repository / "params.yaml").read_text()
    first = command(repository, *LAUNCH, "smoke").stdout
    assert ran(first) == {"phantom", "data_report", "evaluate", "audit"}
    assert "the table and the verdict" in first
    assert "dvc metrics show --md" in first
    assert (repository / "models/smoke/combined/file.json").exists()
    assert not (repository / "models/phantom").exists()
    assert (repository / "params.yaml").read_text() == params
    assert not (repository / "dvc.lock").exists(), "the default was never built, so it has no lock"
    assert git(repository, "status", "--porcelain") == "", "a preset leaves the working tree clean"

    assert ran(command(repository, *LAUNCH).stdout) == {"phantom", "data_report", "evaluate", "audit"}
    lock = (repository / "dvc.lock").read_text()
    assert ran(command(repository, *LAUNCH, "smoke").stdout) == set(), "a second call finds the preset's finished stages"
    assert (repository / "dvc.lock").read_text() == lock
    own = repository / "reports/smoke/dvc.lock"
    assert own.read_text().count("made by: make reproduce PRESET=smoke\n") == 1 and maker(own) == "make reproduce PRESET=smoke"
    assert ran(dvc(repository, "repro")) == set(), "the default is up to date after a preset"


def test_what_another_preset_of_the_data_set_reported_is_kept_and_said(repository: Path) -> None:
    other = repository / "presets/other.yaml"
    other.write_text((repository / "presets/smoke.yaml").read_text())
    command(repository, *LAUNCH, "smoke")
    (repository / "reports/smoke/verdict.json").write_text("of smoke")
    try:
        said = command(repository, *LAUNCH, "other").stdout
    finally:
        other.unlink()
    kept = repository / ".cache/replaced/smoke/make-reproduce-PRESET-smoke"
    assert f"reports/smoke is of `make reproduce PRESET=smoke` and will be replaced; a copy is kept in {kept.relative_to(repository)}" in said
    assert (kept / "verdict.json").read_text() == "of smoke" and maker(kept / "dvc.lock") == "make reproduce PRESET=smoke"
    assert maker(repository / "reports/smoke/dvc.lock") == "make reproduce PRESET=smoke", "the other found all of it made"
    assert maker(repository / "dvc.lock") is None and maker(repository / "nowhere") is None


def test_ids_that_were_made_under_another_key_are_made_anew(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    called: list[list[str]] = []

    def call(command: list[str], hold: int) -> int:
        called.append(command)
        return 0

    monkeypatch.setattr(launch, "call", call)
    patients = read_params().model_copy(update={"dataset": "patients"})
    (repository / "data/raw/patients").mkdir(parents=True)
    for name in ("refused.txt", "image.png"):
        (repository / "data/raw/patients" / name).touch()
    launch.rename_images(["dvc"], patients, 0)
    assert not called, "nothing is refined yet"
    for before, now in (("", ""), ("", "secret"), ("secret", "secret"), ("secret", "another"), ("secret", "")):
        called.clear()
        monkeypatch.setenv("RARELENS_ID_KEY", before)
        for params in (patients, read_params()):
            folder = repository / f"data/refined/{params.dataset}"
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"source": [keyed("file", "image.png")]}).to_parquet(folder / "part-000.parquet")
        monkeypatch.setenv("RARELENS_ID_KEY", now)
        for params in (patients, read_params()):
            launch.rename_images(["dvc"], params, 0)
        assert called == [["dvc", "repro", "--force", "--single-item", "refine"]] * (before != now), "of drawings never"
    shutil.rmtree(repository / "data/refined")
    shutil.rmtree(repository / "data/raw/patients")


def test_params_edited_while_a_preset_runs_are_kept(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(repository)
    before, own_lock = (repository / "params.yaml").read_text(), repository / "reports/edited/dvc.lock"
    kept = repository / ".cache/replaced/params.yaml"
    with launch.preset_in_place({"dataset": "smoke"}, own_lock, "x"):
        pass
    assert not kept.exists()
    with launch.preset_in_place({"dataset": "smoke"}, own_lock, "x"):
        (repository / "params.yaml").write_text("edited")
    assert (
        (repository / "params.yaml").read_text() == before
        and kept.read_text() == "edited"
        and str(kept.relative_to(repository)) in capsys.readouterr().out
    )


def interrupt(repository: Path, number: signal.Signals) -> int:
    """Start the preset smoke anew, send a signal to all its processes while a stage runs, and return its exit status."""
    (repository / "reports/smoke/dvc.lock").unlink(missing_ok=True)
    (repository / "stages/phantom.py").write_text(f"# {number.name}, so that the run cache does not know this run\n")
    (repository / "slow").touch()
    # A shell that starts tests in the background has them ignore Ctrl-C, and children inherit that.
    process = subprocess.Popen(
        [sys.executable, *LAUNCH, "smoke"], cwd=repository, env=environment() | IDENTITY, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        for _ in range(1200):
            if (repository / "started").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert (repository / "started").exists(), "the stage has not started"
        os.killpg(process.pid, number)
        return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        for name in ("slow", "started"):
            (repository / name).unlink(missing_ok=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_bring_the_default_back(repository: Path, number: signal.Signals) -> None:
    params = (repository / "params.yaml").read_text()
    assert interrupt(repository, number) == 1
    assert (repository / "params.yaml").read_text() == params


def test_after_a_kill_the_next_call_brings_the_default_back(repository: Path) -> None:
    params = (repository / "params.yaml").read_text()
    assert interrupt(repository, signal.SIGKILL) == -signal.SIGKILL
    assert (repository / "params.yaml").read_text() != params
    refused = command(repository, *LAUNCH, "unknown", check=False)
    assert refused.returncode == 1
    assert (repository / "params.yaml").read_text() == params


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"dataset": "smoke", "trian": {"steps": 8}}, "presets/wrong.yaml: trian: is not a known key"),
        ({"dataset": "smoke", "train": {"lr": "1e-4"}}, "presets/wrong.yaml: train.lr: "),
        ({"train": {"steps": 8}}, "would overwrite the results of params.yaml"),
        ({"dataset": "smoke"}, "data/raw/smoke is missing"),
        (["smoke"], "must hold a mapping"),
    ],
)
def test_a_wrong_preset_is_refused_in_one_line(repository: Path, values: object, complaint: str) -> None:
    path = repository / "presets/wrong.yaml"
    path.write_text(yaml.safe_dump(values))
    try:
        done = command(repository, *LAUNCH, "wrong", check=False)
    finally:
        path.unlink()
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("error: ")
    assert complaint in last
    assert "Traceback" not in done.stdout


def test_merge_replaces_lists_and_numbers_and_keeps_the_rest() -> None:
    default = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert merge(default, {"a": {"c": [9]}, "e": None}) == {"a": {"b": 1, "c": [9]}, "d": 3, "e": None}
    assert default == {"a": {"b": 1, "c": [1, 2]}, "d": 3}


def test_an_external_set_that_is_not_refined_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = read_params(ROOT / "params.yaml")
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"external": ["other"]})})
    with pytest.raises(UserError, match=r"names other, which is not refined yet; run `python -m stages\.refine data/other\.yaml data/raw/other"):
        require_images(params)
    (tmp_path / "data/refined/other").mkdir(parents=True)
    require_images(params)
