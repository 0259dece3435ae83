"""The shortcut audit on every data set at hand, from raw files to data.json: rows for reports/bench.md.

python -m tests.bench.shortcuts
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from stages.runtime.files import read_json
from stages.runtime.launch import read_preset
from stages.runtime.params import Params
from tests.bench.refining import ROOT

SHARED = ROOT.parent / "shared/data"
#: Data set, what is under data/raw (a folder of ours, or an archive), the preset, and whether the audit is to fire.
SETS = (
    ("phantom", ROOT / "data/raw/phantom", "", "must not fire"),
    ("rare_mri", SHARED / "rare_mri_sample.tar", "rare_mri-cpu", "must fire, about 0.99"),
    ("ham10000", SHARED / "ham10000_200x150.tar", "ham10000-cpu", "reported"),
)


def shortcut_rows() -> list[list[str]]:
    """Per data set and rare disease the worst probe: its AUC with 95% interval beside 0.5, and whether the audit fires."""
    rows = []
    for name, source, preset, wanted in SETS:
        if not source.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = audit(Path(folder), name, source, preset)
        for disease, told in found["shortcut"].items():
            what = f"shortcut audit, {name}, {disease}: {told['probe']} ({told['n']:,} training images, {told['n_positive']} of them with it)"
            measured = (
                f"AUC {told['auc']:.2f} ({told['low']:.2f} to {told['high']:.2f}), p = {told['p']:.3f}: {'fires' if told['fires'] else 'silent'}"
            )
            rows.append([what, measured, "nothing to see: 0.50", f"{told['auc'] / 0.5:.2f}", wanted])
    return rows


def audit(folder: Path, name: str, source: Path, preset: str) -> dict[str, Any]:
    """data.json of all images of a data set, refined, split and reported on in `folder`."""
    values = read_preset(preset, ROOT / "presets", ROOT / "params.yaml")[0] if preset else yaml.safe_load((ROOT / "params.yaml").read_text())
    if name == "ham10000":  # all images, not the preset's share of them
        values["split"] |= {"base": 0, "max_images": {}}
    Params.model_validate(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "data").mkdir()
    shutil.copy(ROOT / f"data/{name}.yaml", folder / "data")
    raw = source
    if source.suffix == ".tar":
        raw = folder / "raw"
        with tarfile.open(source) as tar:
            tar.extractall(raw, filter="data")
    card = f"data/{name}.yaml"
    for command in (
        ["stages.refine", card, str(raw), "refined"],
        ["stages.split", "refined", "split.csv"],
        ["stages.data_report", card, "refined", "split.csv", str(ROOT / "models/base"), "report"],
    ):
        subprocess.run(
            [sys.executable, "-m", *command], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL
        )
    found: dict[str, Any] = read_json(folder / "report/data.json")
    return found


if __name__ == "__main__":
    for row in shortcut_rows():
        print(" | ".join(row))
