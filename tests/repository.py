"""Copies of this repository to run DVC in: the real one, and one whose stages are stubs that run in no time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from stages.runtime.launch import environment

ROOT = Path(__file__).parents[1]
IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "test"), ("EMAIL", "test@localhost"))}

#: Stands in for every stage: its outputs hold a hash of its dependencies and parameters, so they change when those do.
STUB = """
import argparse, hashlib, time
from pathlib import Path
import yaml
parser = argparse.ArgumentParser()
for name in ("--deps", "--outs", "--params"):
    parser.add_argument(name, nargs="*", default=[])
args = parser.parse_args()
total = hashlib.sha256()
for dep in map(Path, args.deps):
    files = [dep] if dep.is_file() else sorted(p for p in dep.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for file in files:
        total.update(file.read_bytes())
for param in args.params:
    file, key = param.split(":")
    value = yaml.safe_load(Path(file).read_text())
    for part in key.split("."):
        value = value[part]
    total.update(repr(value).encode())
if Path("slow").exists():
    Path("started").touch()
    time.sleep(60)
for out in map(Path, args.outs):
    file = out if out.suffix else out / "file.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"value": "' + total.hexdigest() + '"}')
"""


def git(folder: Path, *args: str) -> str:
    """The output of a git command in `folder`."""
    return subprocess.run(["git", *args], cwd=folder, env=os.environ | IDENTITY, check=True, capture_output=True, text=True).stdout


def command(folder: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python ARGS` in `folder` as `make` would, stdout and stderr together; fails with the output's end when `check`."""
    env = environment() | IDENTITY
    done = subprocess.run([sys.executable, *args], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert not check or done.returncode == 0, f"python {' '.join(args)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done


def dvc(folder: Path, *args: str) -> str:
    """The output of a DVC command in `folder`."""
    return command(folder, "-m", "dvc", *args).stdout


def ran(output: str) -> set[str]:
    """The stages that a `dvc repro` or `dvc exp run` has run, from its output."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def commit(folder: Path) -> None:
    """Commit everything in `folder`, making it a git repository when it is none."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "test")


def checkout(target: Path) -> Path:
    """This working tree as a fresh clone would have it (tracked files and new ones that are not ignored), in `target`, one commit."""
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    commit(target)
    return target


def stubbed(target: Path, stages: dict[str, Any] | None = None) -> Path:
    """A repository with this one's params, cards, presets and stages (or other `stages` of dvc.yaml), where every stage is a stub."""
    target.mkdir()
    for name in ("params.yaml", ".gitignore", ".dvcignore", "requirements.lock"):
        shutil.copy(ROOT / name, target)
    for name in ("data", "presets", "stages"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "raw", "refined", "splits", "mixes", "synthetic"))
    (target / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, target / ".dvc")
    (target / "models/base").mkdir(parents=True)
    (target / "models/base/file.json").write_text("{}")
    (target / "stub.py").write_text(STUB)
    (target / "stages/summary.py").write_text("print('the table and the verdict')")
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    graph["stages"] = stages or graph["stages"]
    for stage in graph["stages"].values():
        outs = [next(iter(o)) if isinstance(o, dict) else o for o in [*stage.get("outs", []), *stage.get("metrics", [])]]
        params = []
        for entry in stage.get("params", []):
            params += [f"{file}:{key}" for file, keys in entry.items() for key in keys] if isinstance(entry, dict) else [f"params.yaml:{entry}"]
        if "data/splits/${dataset}.csv" in outs:
            params.remove("params.yaml:rare")  # where the data fix the split, as the phantom does, `rare` moves no image
        for dep in stage.get("deps", []):
            if dep.endswith(".py"):
                (target / dep).touch()
        stage["cmd"] = f"python stub.py --deps {' '.join(stage.get('deps', []))} --outs {' '.join(outs)} --params {' '.join(params)}"
    (target / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    commit(target)
    return target
