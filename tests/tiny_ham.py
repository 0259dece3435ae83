"""A small model of real photographs, HAM10000's of ../shared/data, trained as `stages.train` trains: for tests of the page; none of it is kept."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from stages.classifier.reading import read
from stages.dataset.groups import read_seen, write_seen
from stages.dataset.table import write_table
from stages.imaging.refining import encode_png
from stages.runtime.files import sha256, write_json, write_text
from tests.repository import ROOT
from tests.tiny_root import SIZE, write_lock

ARCHIVE = ROOT.parent / "shared/data/ham10000_200x150.tar"
NAME = "ham10000"
LESIONS = {"train": 28, "val": 2, "cal": 40, "new": 1}  # a class; one image each; what is new stays out of the data set
CHANGES: dict[str, dict[str, Any]] = {
    "train": {"seeds": [1], "steps": 12, "batch": 32, "checkpoints": 1, "lr": 0.001},
    "train_real": {"aa_seeds": []},
}


def photographs(counts: Mapping[str, int] = LESIONS) -> pd.DataFrame:
    """label, group, split, data (JPEG bytes) of so many lesions of each class by split, or all that there are, the first in the order of their names."""
    with tarfile.open(ARCHIVE) as tar:
        members = {Path(member.name).name: member for member in tar if member.isfile()}

        def data(name: str) -> bytes:
            file = tar.extractfile(members[name])
            assert file is not None
            return file.read()

        table = pd.read_csv(io.BytesIO(data("HAM10000_metadata.csv"))).sort_values("image_id").drop_duplicates("lesion_id")
        parts = [part for part, count in counts.items() for _ in range(count)]
        chosen = pd.concat([own.head(len(parts)).assign(split=parts[: len(own)]) for _, own in table.groupby("dx")])
        chosen = chosen.rename(columns={"dx": "label", "lesion_id": "group"})
        return chosen.assign(data=[data(f"{name}.jpg") for name in chosen["image_id"]])[["label", "group", "split", "data"]]


def add(root: Path, workplace: Path) -> dict[str, bytes]:
    """Train on HAM10000's photographs in `workplace`, and put the model, checked by its lock, beside those of `root`; a new photograph a class."""
    from stages import train  # imports torch

    found = photographs()
    rows = found[found["split"] != "new"].reset_index(drop=True)
    ids = [f"img{k}" for k in range(len(rows))]
    refined, split, base = root / "data/refined" / NAME, root / "data/splits" / f"{NAME}.csv", workplace / "base"
    write_table(refined / "part.parquet", pd.DataFrame({"id": ids, "image": [encode_png(read(data, SIZE)) for data in rows["data"]]}))
    rows["fold"] = rows["split"].map({"train": "0"}).fillna("")
    write_text(split, rows.assign(id=ids)[["id", "label", "group", "split", "fold"]].to_csv(index=False))
    write_text(root / "data" / f"{NAME}.yaml", (ROOT / "data" / f"{NAME}.yaml").read_text())
    body = ROOT / "models/base/backbone"
    start = {"backbone": body.as_posix(), "backbone_name": "test_resnet", "backbone_hash": sha256(body / "backbone.safetensors"), "trained": False}
    write_json(base / "base.json", {"hash": "b" * 64, **start})
    write_seen(base, read_seen(ROOT / "models/base"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"dataset": NAME, "threads": 1}
    for block, values in CHANGES.items():
        params[block] |= values
    write_text(workplace / "params.yaml", yaml.safe_dump(params))
    out = root / "models" / NAME / "real"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setattr(sys, "argv", ["train", "real", *map(str, (root / "data" / f"{NAME}.yaml", refined, split, base, workplace / "mix.csv", out))])
        train.main()
    write_json(root / "reports" / NAME / "verdict.json", {"candidate": "real"})
    write_lock(root, f"reports/{NAME}/dvc.lock", out.relative_to(root).as_posix())
    new = found[found["split"] == "new"]
    return dict(zip(new["label"], new["data"], strict=True))
