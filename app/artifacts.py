"""The tracked artifacts, found by path and checked against the lock that DVC wrote when it made them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.classifier.prediction import open_model
from stages.dataset.groups import read_split
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json
from stages.runtime.launch import ASIDE, LOCK, PARAMS, maker
from stages.runtime.params import Params, read_params

if TYPE_CHECKING:  # imports torch
    from stages.classifier.predictor import Predictor


def root() -> Path:
    """The repository: RARELENS_ROOT where it is set, otherwise the folder above app/."""
    return Path(os.environ.get("RARELENS_ROOT") or Path(__file__).parents[1]).resolve()


def of_default(base: Path, name: str) -> Path:
    """params.yaml or dvc.lock of the default, in the repository at `base`: while a preset runs, they wait aside and the preset's are in their place."""
    aside = base / ASIDE / name
    return aside if aside.exists() else base / name


def default_params(base: Path) -> Params:
    """What params.yaml says of the default, in the repository at `base`."""
    return read_params(of_default(base, PARAMS.name), rare_needed=False)


@dataclass(frozen=True)
class Place:
    """A data set of the repository at `root`; `default` is the one that params.yaml names."""

    root: Path
    name: str
    default: bool

    @property
    def lock(self) -> Path:
        """dvc.lock, or the copy that a preset's run leaves beside its reports."""
        return of_default(self.root, LOCK.name) if self.default else self.reports / "dvc.lock"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "data" / f"{self.name}.yaml"

    @property
    def models(self) -> Path:
        """A folder per regime."""
        return self.root / "models" / self.name

    @property
    def reports(self) -> Path:
        """Metrics, figures, verdict."""
        return self.root / "reports" / self.name

    @property
    def refined(self) -> Path:
        """The refined images."""
        return self.root / "data" / "refined" / self.name

    @property
    def synthetic(self) -> Path:
        """A folder of synthetic images per disease."""
        return self.root / "data" / "synthetic" / self.name

    @property
    def split(self) -> Path:
        """The split: id, label, group, split."""
        return self.root / "data" / "splits" / f"{self.name}.csv"

    @property
    def command(self) -> str:
        """What builds the models and reports of this data set: what built them, or where that is not known and several presets may have, a choice of
        these, in angle brackets (a shell runs none)."""
        if self.default:
            return "make reproduce"
        if known := maker(self.lock):
            return known
        presets = [p for p in sorted((self.root / "presets").glob("*.yaml")) if _preset_dataset(p) == self.name]
        names = ", ".join(preset.stem for preset in presets)
        return f"make reproduce PRESET={names if len(presets) == 1 else f'<one of: {names}>'}" if presets else "dvc repro"

    @property
    def remedy(self) -> str:
        """How to get the tracked files back; DVC's own commands know the default data set only."""
        return f"Restore it with `dvc checkout` or rebuild it with `{self.command}`." if self.default else f"Rebuild it with `{self.command}`."

    def regimes(self) -> list[str]:
        """The regimes that have a model."""
        return sorted(p.parent.name for p in self.models.glob("*/model.json"))


def _preset_dataset(path: Path) -> str | None:
    value = yaml.safe_load(path.read_text())
    return value.get("dataset") if isinstance(value, dict) else None


def places(base: Path) -> list[Place]:
    """The default data set first, then every other one that has a model."""
    default = default_params(base).dataset
    others = {p.parts[-3] for p in (base / "models").glob("*/*/model.json")} - {default}
    return [Place(base, default, True), *(Place(base, name, False) for name in sorted(others))]


def candidate(place: Place) -> str:
    """The one regime that the verdict is on: the verdict names it, before there is one evaluate.candidate of params.yaml."""
    verdict = place.reports / "verdict.json"
    return str(read_json(verdict)["candidate"]) if verdict.exists() else default_params(place.root).evaluate.candidate


def signature(*paths: Path) -> str:
    """A short text that changes when a file in `paths` (files or folders) changes its name, size or time: a key for caches."""
    found = [f for p in paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    with settled():
        facts = [(f.as_posix(), f.stat().st_size, f.stat().st_mtime_ns) for f in found if f.is_file()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@contextmanager
def settled() -> Iterator[None]:
    """Files that vanish or are half written while they are read, as during a `dvc repro`, are a `UserError`: the next look finds them whole."""
    try:
        yield
    except (FileNotFoundError, yaml.YAMLError) as error:
        what = Path(error.filename).name if isinstance(error, FileNotFoundError) else "dvc.lock"
        raise UserError(f"{what} changed while it was read: a `dvc repro` or `dvc checkout` is at work. Try again when it has ended.") from None


def dvc_hash(path: Path) -> str:
    """The MD5 by which dvc.lock knows a file or a folder.

    A folder's is the MD5 of the JSON list of {md5, relpath} of its files, sorted by relpath, with `.dir` added
    (dvc_data.hashfile.tree.Tree; a test compares it with DVC's own on a real repository).
    """
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = {f.relative_to(path).as_posix(): f for f in path.rglob("*") if f.is_file()}
    entries = [{"md5": dvc_hash(files[name]), "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def locked(lock: Path, path: str) -> str | None:
    """The hash that `lock` records for the out `path` (relative to the repository), None when it records none."""
    if not lock.exists():
        return None
    with settled():
        stages: dict[str, Any] = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((out["md5"] for out in outs if out.get("path") == path and "md5" in out), None)


def tested(place: Place, regime: str) -> bool:
    """Whether the reports are of the model of `regime` that the lock records, and not of one before it: in between, DVC has trained and not evaluated.

    True as well where the lock knows of no evaluation, as in one that holds a part of the graph.
    """
    path = (place.models / regime).relative_to(place.root).as_posix()
    if not place.lock.exists():
        return True
    with settled():
        stages: dict[str, Any] = (yaml.safe_load(place.lock.read_text()) or {}).get("stages", {})
    read = [dep["md5"] for dep in stages.get("evaluate", {}).get("deps", []) if dep.get("path") == path and "md5" in dep]
    return not read or read[0] == locked(place.lock, path)


def check(place: Place, regime: str) -> str:
    """The hash of the model of `regime`, after comparing it with the lock.

    Raises `UserError` when the model or its record is missing, `LawError` when they differ; each names the command that mends it.
    """
    folder = place.models / regime
    if not (folder / "model.json").exists():
        fetch = " or fetch it with `dvc pull`" if place.default else ""
        raise UserError(f"There is no model for {place.name}, regime {regime}. Build it with `{place.command}`{fetch}.")
    relative = folder.relative_to(place.root).as_posix()
    with settled():
        expected, found = locked(place.lock, relative), dvc_hash(folder)
    if expected is None:
        raise UserError(
            f"{place.lock.relative_to(place.root)} has no record of {relative}, so nobody can say where this model comes from. "
            f"Build it with `{place.command}`."
        )
    if found != expected:
        raise LawError(
            f"The model in {relative} is not the one that {place.lock.relative_to(place.root)} records "
            f"(found {found[:8]}, recorded {expected[:8]}). {place.remedy}"
        )
    return found


def load(place: Place, regime: str, content: str) -> Predictor:
    """The model of `regime`, which `check` found to be `content`.

    Raises `UserError` as `open_model` does, and when the folder is no longer `content` once the model is open: what was checked is what speaks.
    """
    from stages.runtime import determinism  # imports torch

    determinism.fix(default_params(place.root).threads)
    folder = place.models / regime
    predictor = open_model(folder, read_split(place.split) if place.split.exists() else None)
    with settled():
        if dvc_hash(folder) != content:
            raise UserError(f"The model in {folder.relative_to(place.root).as_posix()} was replaced while it was opened. Try again.")
    return predictor


def changed(place: Place, *paths: Path) -> list[str]:
    """Which of `paths` (files or folders) the lock does not record as they lie there."""
    named = [(p, p.relative_to(place.root).as_posix()) for p in paths if p.exists()]
    return [name for path, name in named if locked(place.lock, name) != dvc_hash(path)]


def base_of(place: Place) -> dict[str, Any]:
    """What models/<name>/base/base.json says of the base that drew the synthetic images; empty when it is not there."""
    path = place.models / "base" / "base.json"
    return dict(read_json(path)) if path.exists() else {}
