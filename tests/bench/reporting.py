"""The data report's memory as the folder grows: rows for reports/bench.md.

python -m tests.bench.reporting 300 1000
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from stages.dataset.table import write_table
from stages.imaging.refining import encode_png
from stages.runtime.files import write_json
from stages.runtime.params import Params, read_params
from tests.bench.refining import ROOT, watched

COUNTS = (1_000, 10_000)
CLASSES = ("a", "b", "c")
PARTS = ("train", "train", "train", "cal", "test")  # of five images in turn
CARD = {
    "name": "bench", "title": "Bench", "licence": "none", "citation": "none", "modality": "photograph",
    "layout": {"kind": "folders", "labels": {name: name for name in CLASSES}}, "classes": {name: {"title": name} for name in CLASSES},
    "prompts": {name: ["{title}"] for name in ("base", *CLASSES)}, "risk": {"low": 0.1, "high": 0.5},
}  # fmt: skip


def report_rows(params: Params, counts: tuple[int, int] = COUNTS) -> list[list[str]]:
    """The peak memory of the stage at two sizes, with all its parts but 100 permutations, the least, as their number is no matter of memory."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            place_refined(Path(name), count, params)
            (peak, _), took = watched(Path(name), "stages.data_report", "card.yaml", "refined", "split.csv", str(ROOT / "models/base"), "report")
            found.append((peak, took))
    (few, _), (many, took) = found
    told = f"peak memory of the data report, {counts[1]:,} images, {PARTS.count('train') / len(PARTS):.0%} of them training ({took:.0f} s)"
    return [[told, f"{many:.0f} MB", f"{counts[0]:,} images: {few:.0f} MB", f"{many / few:.2f}", "about 1"]]


def place_refined(folder: Path, count: int, params: Params) -> None:
    """Card, params, split and refined table of `count` different smooth pictures of 64 px in three classes, an image a group."""
    k = np.arange(count)
    ids, labels = [f"{i:016x}" for i in k], [CLASSES[i % len(CLASSES)] for i in k]
    table = pd.DataFrame({"id": ids, "label": labels, "group": ids, "sha256": ids, "source": ids, "frame": 0, "width": 200, "height": 150})
    table = table.assign(mode="RGB", format="JPEG", file_bytes=5000 + k % 700, recoded_bytes=4000 + k % 300, burned_in_text=False)
    write_table(folder / "refined/part-000.parquet", table, pictures(count, params.refine.size))
    pd.DataFrame({"file": [], "reason": []}).to_csv(folder / "refined/quarantine.csv", index=False)
    told = {"near_duplicates": [], "table_rows_without_file": 0, "public_ids": True, "unusable": {}, "frames_left_out": {}, "frame_copies": {}}
    write_json(folder / "refined/refined.json", told)
    parts = [PARTS[i % len(PARTS)] for i in k]
    table[["id", "label", "group"]].assign(split=parts, fold=[0 if part == "train" else "" for part in parts]).to_csv(
        folder / "split.csv", index=False
    )
    values = params.model_dump() | {"rare": [CLASSES[0]]}
    values["data_report"] |= {"permutations": 100}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))


def pictures(count: int, size: int) -> Iterator[bytes]:
    """PNGs of `count` different pictures."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        yield encode_png(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)))


if __name__ == "__main__":
    print(report_rows(read_params(), (int(sys.argv[1]), int(sys.argv[2]))))
