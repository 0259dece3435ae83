"""The commands of Makefile and README: set-up and its refusals, and that no documented command is out of date."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.runtime.launch import read_preset
from tests import readme
from tests.repository import ROOT

#: Stands in for uv: notes each call; exits with the status in $FAKE_UV.
FAKE_UV = '#!/bin/sh\necho "$@" >> "$UV_CALLS"\nexit "${FAKE_UV:-0}"\n'


def program(path: Path, text: str) -> Path:
    """An executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A clone without .venv, in which nothing can be fetched: what `make` needs, and no more."""
    folder = tmp_path / "a clone"
    (folder / "stages/runtime").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "stages/runtime/setup.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`make ARGS`, with no network, no caches, and no uv but the one that `extra` may put on PATH."""
    closed = "http://127.0.0.1:9/simple"  # the discard port: refused at once
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "MAKE", "VIRTUAL_ENV"))}
    path = [p for p in env["PATH"].split(os.pathsep) if not (Path(p) / "uv").exists() and Path(p) != Path(sys.executable).parent]
    env |= {"PATH": os.pathsep.join(path), "HOME": str(folder.parent), "XDG_CACHE_HOME": str(folder.parent / "cache"), "PIP_CONFIG_FILE": os.devnull}
    env |= {"PIP_INDEX_URL": closed, "UV_DEFAULT_INDEX": closed, "PIP_NO_CACHE_DIR": "1", "UV_CACHE_DIR": str(folder.parent / "cache/uv")}
    env |= extra
    if "BIN" in extra:
        env["PATH"] = extra["BIN"] + os.pathsep + env["PATH"]
    return subprocess.run(["make", *args], cwd=folder, env=env, capture_output=True, text=True)


def interpreter() -> str:
    """A real Python with pip, outside any virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))


@pytest.mark.parametrize("target", ["reproduce", "test", "app"])
@pytest.mark.parametrize("version", ["2.7", "3.10", "3.14"])
def test_a_python_that_is_too_old_or_too_new_is_refused_in_one_line(bare: Path, target: str, version: str) -> None:
    other = program(bare.parent / "other", f'#!/bin/sh\necho "{version} $0"\n')
    done = make(bare, target, f"PYTHON={other}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: {other} is Python {version}; rarelens needs 3.11, 3.12 or 3.13: name one, e.g. make reproduce PYTHON=python3.11\n"


def test_a_python_that_is_not_there_is_refused_in_one_line(bare: Path) -> None:
    done = make(bare, "reproduce", "PYTHON=no-such-python")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: no-such-python does not run: [^\n]+\n", done.stderr)


def test_too_little_disk_is_refused_in_one_line(bare: Path) -> None:
    done = make(bare, "reproduce", f"PYTHON={interpreter()}", "NEED_GB=1000000")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: \d+ GB free in [^\n]+; the environment needs 1000000 GB [^\n]+\n", done.stderr)
    assert not (bare / ".venv").exists()


def test_no_network_and_no_cache_is_refused_in_one_line(bare: Path) -> None:
    done = make(bare, "test", f"PYTHON={interpreter()}", NEED_GB="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: the packages [^\n]+ \(no network\?\): see \.cache/setup\.log[^\n]+\n", done.stderr), done.stderr
    assert "uv==" in (bare / ".cache/setup.log").read_text()


def test_a_second_call_sets_nothing_up_again(bare: Path) -> None:
    program(bare.parent / "bin/uv", FAKE_UV)
    (bare / "stages/__init__.py").touch()
    (bare / "stages/runtime/launch.py").write_text("print('ran')")
    calls = bare.parent / "calls"
    here = {"BIN": str(bare.parent / "bin"), "UV_CALLS": str(calls), "NEED_GB": "0"}

    failed = make(bare, "reproduce", f"PYTHON={interpreter()}", FAKE_UV="1", **here)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert len(calls.read_text().splitlines()) == 2, "online, then from the cache"

    first = make(bare, "reproduce", f"PYTHON={interpreter()}", **here)
    assert (first.returncode, first.stdout) == (0, "ran\n"), first.stderr
    assert calls.read_text().splitlines()[2:] == ["pip sync --python .venv/bin/python --require-hashes requirements.lock"]
    assert make(bare, "reproduce", **here).stdout == "ran\n"
    assert make(bare, "reproduce", f"PYTHON={interpreter()}", **here).stderr == ""
    assert len(calls.read_text().splitlines()) == 3, "nothing to set up"

    (bare / "requirements.lock").write_text("# another lock\n")
    assert make(bare, "reproduce", **here).stdout == "ran\n"
    assert len(calls.read_text().splitlines()) == 4


def test_what_was_set_up_can_be_activated_as_the_readme_says(bare: Path) -> None:
    program(bare.parent / "bin/uv", FAKE_UV)
    (bare / "stages/__init__.py").touch()
    (bare / "stages/runtime/launch.py").touch()
    here = {"BIN": str(bare.parent / "bin"), "UV_CALLS": str(bare.parent / "calls"), "NEED_GB": "0"}
    assert make(bare, "reproduce", f"PYTHON={interpreter()}", **here).returncode == 0
    found = subprocess.run(["bash", "-c", "source .venv/bin/activate && command -v python"], cwd=bare, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == bare / ".venv/bin/python"


def test_make_help_prints_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", text, re.MULTILINE)
    assert set(targets) >= {"reproduce", "test", "app", "lint", "bench", "lock", "help"}
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets:
        assert re.search(rf"^  make {target} +\w", shown, re.MULTILINE), target


def test_ci_runs_linters_and_tests() -> None:
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.read_text().splitlines()[-2:] == ["make lint", "make test"]


# --- README

#: Where each documented command that needs no GPU, network, data or much time is run by the suite.
COVERED = {
    "make reproduce PRESET=smoke": "tests/conftest.py",
    "make app": "tests/test_browser.py",
    "make api PORT=8000": "tests/test_api.py",
    "source .venv/bin/activate": "tests/test_commands.py",
    "python -m stages.predict models/phantom/combined data/raw/phantom/images predictions.csv": "tests/test_smoke.py",
    "python -m stages.source": "tests/test_source.py",
    "dvc metrics show --md": "tests/test_smoke.py",
    "dvc exp run -n real -S evaluate.regime=real": "tests/test_smoke.py",
    "dvc exp run -n combined -S evaluate.regime=combined": "tests/test_smoke.py",
    "dvc metrics diff real combined": "tests/test_smoke.py",
    "dvc plots show": "tests/test_smoke.py",
    'dvc exp run --queue -S "mix.per_class=5,10,20,40" -S "train.seeds=[1,2,3]" train_combined': "tests/test_graph.py",
    'dvc exp run --queue -S "train_combined.real_weight=0.5,2.0,4.0" -S "train.seeds=[1,2,3]" train_combined': "tests/test_graph.py",
    'dvc exp run --queue -S "mix.select=random,hard" -S "train.seeds=[1,2,3]" train_combined': "tests/test_graph.py",
    "make test": "tests/test_commands.py",
}
MARKED = re.compile(r"# .*(needs|minutes)")
#: What a documented target runs, as the test that `COVERED` names for it runs it without make; `make test` is this suite.
RECIPES = {
    "make reproduce PRESET=smoke": "python -m stages.runtime.launch smoke",
    "make app": "python -m streamlit run app/main.py",
    "make api PORT=8000": "python -m app.api 8000",
    "make test": "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder",
}


def documented() -> list[tuple[str, str]]:
    """Every command of the README's sh blocks: (command, whole line)."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [(line.split("  #")[0].strip(), line) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(("command", "line"), documented())
def test_a_command_of_the_readme_is_run_by_a_test_or_marked(command: str, line: str) -> None:
    assert command in COVERED or MARKED.search(line), "name the test that runs it, or what it needs"
    if command in COVERED:
        assert (ROOT / COVERED[command]).exists()
    if command.startswith("make "):
        target = command.split()[1]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    preset = re.search(r"PRESET=([a-z0-9_-]+)", command)
    if preset and preset[1] != "clinic":  # the example of a reader's own
        read_preset(preset[1], ROOT / "presets", ROOT / "params.yaml")


@pytest.mark.parametrize(("command", "recipe"), RECIPES.items())
def test_a_documented_target_runs_what_its_test_runs(command: str, recipe: str) -> None:
    assert {c for c in COVERED if c.startswith("make ")} == RECIPES.keys()
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # those of the make that runs the suite
    what, *words = command.split()
    done = subprocess.run([what, "--dry-run", *words], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == recipe


class Understood(Exception):
    """The arguments were taken."""


@pytest.mark.parametrize("command", sorted({c for c, _ in documented() if c.startswith("python -m stages.")}))
def test_a_documented_script_takes_its_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dry run: those marked as needing data, network or time get no further in the suite on their own paths.
    name, *words = shlex.split(command.split(" > ")[0], comments=True)[2:]
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser) -> None:
        parse(self)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(Understood):
        importlib.import_module(name).main()


def test_a_documented_stage_of_dvc_exists() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = [c.split()[2] for c, _ in documented() if c.startswith("dvc repro ")]
    assert named and set(named) <= stages.keys()


def test_the_result_in_the_readme_is_the_one_in_reports() -> None:
    text = (ROOT / "README.md").read_text()
    assert readme.filled(text, {"result": readme.result()}) == text, "run python -m tests.readme"


def test_the_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for name in re.findall(r"`((?:stages|tests|data|presets|reports)/[\w./-]+\.(?:py|yaml|md))`", text):
        assert (ROOT / name).exists() or name.startswith("reports/"), name
