"""Build the default or a preset, then show the table of regimes and the verdict. `make reproduce` calls it.

    python -m stages.runtime.launch            dvc repro of what params.yaml says
    python -m stages.runtime.launch NAME       dvc exp run with the values of presets/NAME.yaml

A preset is params.yaml with some values replaced. While it runs, params.yaml and dvc.lock are the preset's, and the default's wait in
.cache/default; they come back when the run ends, however it ends (after a kill: at the next call). The preset's own lock is kept as
reports/<dataset>/dvc.lock, under a line that says what made it: a second call finds its finished stages there, and the page checks its
models against it. Where another preset of the same data set made them, the reports it leaves are kept in .cache/replaced, and so is a
params.yaml that was edited while a preset ran.

Images are refined anew when RARELENS_ID_KEY is not what it was: their ids hang on it, and DVC does not see it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from stages.runtime.checked import explain, read_yaml
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_text
from stages.runtime.ids import KEY, keyed
from stages.runtime.params import Params, read_params

PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
ASIDE, REPLACED = Path(".cache/default"), Path(".cache/replaced")
PLACED = ASIDE / "placed.yaml"  # the preset's params.yaml as it was put in place
MADE_BY = "# made by: "  # the first line of a preset's own lock, before the command
TARGETS = ("evaluate", "data_report", "audit")


def merge(default: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`default` with `values` laid over it, mapping by mapping; lists and numbers are replaced."""
    merged = dict(default)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_preset(name: str, folder: Path = Path("presets"), default: Path = PARAMS) -> tuple[dict[str, Any], Params]:
    """The whole parameters of preset `name`, as a mapping and checked; `UserError` for an unknown preset or key."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"no preset {name!r}; one of {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of parameters")
    merged = merge(read_yaml(default), values)
    try:
        params = Params.model_validate(merged)
    except ValidationError as error:
        raise explain(error, path) from None
    if params.dataset == read_params(default).dataset:
        raise UserError(f"{path} would overwrite the results of params.yaml: both have dataset: {params.dataset}")
    return merged, params


def restore() -> bool:
    """Bring back the default's params.yaml and dvc.lock where a preset has left them aside; True when it had."""
    if not ASIDE.exists():
        return False
    if PLACED.exists() and PARAMS.exists() and PLACED.read_bytes() != PARAMS.read_bytes():
        kept = REPLACED / PARAMS.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PARAMS, kept)
        print(f"{PARAMS} was edited while a preset's values stood in it; it is the default's again, and the edited one is kept as {kept}", flush=True)
    LOCK.unlink(missing_ok=True)
    for kept in (LOCK, PARAMS):
        if (ASIDE / kept).exists():
            shutil.copyfile(ASIDE / kept, kept)
    shutil.rmtree(ASIDE)
    return True


def maker(own_lock: Path) -> str | None:
    """The command that made a preset's `own_lock` and what lies beside it; None where there is none or nothing is said."""
    first = own_lock.read_text().partition("\n")[0] if own_lock.exists() else ""
    return first.removeprefix(MADE_BY) if first.startswith(MADE_BY) else None


def keep_replaced(own_lock: Path, command: str) -> None:
    """Copy the reports beside `own_lock` to .cache/replaced, where another command than `command`, or nobody knows which, made them."""
    reports, before = own_lock.parent, maker(own_lock)
    if before == command or not (reports / "verdict.json").exists():
        return
    kept = REPLACED / reports.name / re.sub(r"[^\w.-]+", "-", before or "unknown")
    partial = kept.with_name(kept.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(reports, partial)
    shutil.rmtree(kept, ignore_errors=True)
    partial.rename(kept)
    print(f"{reports} is of {f'`{before}`' if before else 'an earlier run'} and will be replaced; a copy is kept in {kept}", flush=True)


@contextmanager
def preset_in_place(values: dict[str, Any], own_lock: Path, command: str) -> Iterator[None]:
    """Put a preset's params.yaml and lock in place; afterwards keep its lock as `own_lock`, made by `command`, and bring the default's files back."""
    before, placed = maker(own_lock), None
    partial = ASIDE.with_name(ASIDE.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in (PARAMS, LOCK):
        if file.exists():
            shutil.copyfile(file, partial / file)
    partial.rename(ASIDE)
    try:
        # Not `dvc exp run -S`: DVC would write 0.00001 as 1e-05, which YAML reads as a string.
        text = yaml.safe_dump(values, sort_keys=False)
        write_text(PLACED, text)
        write_text(PARAMS, text)
        LOCK.unlink(missing_ok=True)
        if own_lock.exists():
            placed = own_lock.read_text().removeprefix(f"{MADE_BY}{before}\n")
            write_text(LOCK, placed)
            write_text(own_lock, f"{MADE_BY}{command}\n{placed}")  # now, so that after a kill what was kept is not taken for replaced again
        yield
    finally:
        if LOCK.exists():
            text = LOCK.read_text()
            write_text(own_lock, f"{MADE_BY}{before if before and text == placed else command}\n{text}")  # who made nothing is not the maker
        restore()


@contextmanager
def alone() -> Iterator[int]:
    """Refuse a second run in this folder; yields the lock's file descriptor, which a child may hold on to."""
    path = Path(".cache/launch.lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another `make reproduce` is running here; wait for it, or stop it") from None
        yield file.fileno()


def environment() -> dict[str, str]:
    """The environment for DVC: the interpreter's folder first on PATH (DVC does not add a virtual environment), and a name for its commits."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        for who in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{who}_NAME": "rarelens", f"GIT_{who}_EMAIL": "rarelens@localhost"}
    return env


def call(command: list[str], hold: int) -> int:
    """Run `command` to its end and return its exit status; it holds the descriptor `hold`.

    Ctrl-C, SIGTERM and a closed terminal reach it, and it is waited for.
    """
    child = subprocess.Popen(command, env=environment(), pass_fds=[hold])

    def forward(number: int, _: FrameType | None) -> None:
        if number != signal.SIGINT:  # Ctrl-C reaches the child from the terminal
            child.terminate()

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reproduce(preset: str | None) -> str:
    """Build the default (`preset` None) or a preset; returns its data set's name. Raises `SystemExit` with DVC's status when a stage fails."""
    with alone() as hold:
        if restore():
            print("A preset was interrupted; params.yaml and dvc.lock are the default's again.", flush=True)
        dvc = [sys.executable, "-m", "dvc"]
        if preset is None:
            params = read_params()
            require_images(params)
            status = rename_images(dvc, params, hold) or call([*dvc, "repro", *TARGETS], hold)
        else:
            values, params = read_preset(preset)
            require_images(params)
            own_lock, command = Path("reports", params.dataset, LOCK), f"make reproduce PRESET={preset}"
            keep_replaced(own_lock, command)
            with preset_in_place(values, own_lock, command):
                status = rename_images(dvc, params, hold) or call([*dvc, "exp", "run", *TARGETS], hold)
    if status:
        again = "make reproduce" + (f" PRESET={preset}" if preset else "")
        print(f"error: the pipeline stopped; what went wrong stands above. `{again}` goes on from the last finished stage.", file=sys.stderr)
        raise SystemExit(1)
    return params.dataset


def rename_images(dvc: list[str], params: Params, hold: int) -> int:
    """Refine anew, whatever DVC thinks, where the ids of the refined images are not those that RARELENS_ID_KEY, as it is now, gives to the raw
    files; returns the exit status. Drawings have nothing to hide.
    """
    refined = Path("data/refined", params.dataset)
    tables = [] if params.dataset == params.phantom.name else sorted(refined.glob("*.parquet"))
    sources = {source for table in tables for source in pq.ParquetFile(table).read(columns=["source"]).column("source").to_pylist()}
    raw = Path("data/raw", params.dataset)
    if not sources or any(keyed("file", path.relative_to(raw).as_posix()) in sources for path in raw.rglob("*")):
        return 0
    print(f"{refined}: its ids were made under another {KEY}, or of other files; the images are refined anew", flush=True)
    return call([*dvc, "repro", "--force", "--single-item", "refine"], hold)


def require_images(params: Params) -> None:
    """`UserError` when the data set's images are neither there nor drawn by the stage `phantom`, or an external set was not refined."""
    folder = Path("data/raw", params.dataset)
    if params.dataset != params.phantom.name and not folder.exists():
        raise UserError(f"{folder} is missing: put the images of data/{params.dataset}.yaml there (README, Your own images)")
    for other in params.evaluate.external:
        if not Path("data/refined", other).exists():
            refine = f"python -m stages.refine data/{other}.yaml data/raw/{other} data/refined/{other}"
            raise UserError(f"evaluate.external names {other}, which is not refined yet; run `{refine}`")


def main() -> None:
    """Build, then print the table, the verdict and what to do next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", help="a file of presets/, without .yaml")
    dataset = reproduce(parser.parse_args().preset)
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "stages.summary", f"reports/{dataset}"], check=True, env=environment())
    print(f"""
Next:
  reports/{dataset}/verdict.md         the verdict in words and a picture
  make app                           the page on these models
  source .venv/bin/activate          then, by hand:
  dvc metrics show --md              regimes as rows
  dvc plots show                     curves of all regimes, as one web page""")


if __name__ == "__main__":
    run(main)
