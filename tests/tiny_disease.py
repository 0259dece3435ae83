"""What LoRA training and generation need, in small: card, params, 32 px drawings of df, split, a base of random weights."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages.dataset.groups import write_seen
from stages.dataset.table import write_table
from stages.imaging.refining import encode_png
from stages.diffusion.base import pipeline_hash
from stages.diffusion.pretraining import build_pipeline, build_tokenizer
from stages.imaging.phantoms import draw_lesion, render, rng_for
from stages.runtime.files import write_json, write_text

REPOSITORY = Path(__file__).parents[1]
SIZE = 32
LORA = {"rank": 4, "alpha": 8.0, "token_steps": 2, "steps": 4, "batch": 2, "checkpoints": 2, "held_out": 2}
GENERATE = {"pool": 6, "max_attempts": 2, "steps": 2, "min_distance": 0.0}

NO_FOLD = np.empty(0, np.int64)


def write_pipeline(folder: Path) -> Path:
    """A complete pipeline of random weights for 32 px images."""
    torch.manual_seed(0)
    pipe = build_pipeline(build_tokenizer(), SIZE, widths=(32, 64), ae_widths=(8, 16))
    with torch.no_grad():  # a random decoder gives grey on grey; contrast is what tests can see
        pipe.vae.decoder.conv_out.weight.mul_(20)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def build(root: Path) -> Path:
    """The world under `root`: params.yaml, data/{phantom.yaml,refined,split.csv}, base, pipeline."""
    rows, parts = [], []
    for i in range(9):  # three lesions to train on with two images each, one in val, one in test, and one of another class
        lesion, part = (i // 2, "train") if i < 6 else (i, ("val", "test", "train")[i - 6])
        label = "nv" if i == 8 else "df"
        drawn = draw_lesion(label, rng_for("tiny", lesion))
        pixels = render(drawn, rng_for("tiny photograph", i), SIZE).pixels
        known = {"age": float(drawn.age), "sex": drawn.sex if i else None, "site": drawn.site, "skin_tone": drawn.skin_tone}
        rows.append({"id": f"img{i}", "label": label, "group": f"lesion{lesion}", **known, "image": encode_png(pixels)})
        parts.append({"id": f"img{i}", "label": label, "group": f"lesion{lesion}", "split": part, "fold": lesion % 3 if part == "train" else None})
    write_table(root / "data/refined/part-0.parquet", pd.DataFrame(rows))
    pd.DataFrame(parts).astype({"fold": "Int64"}).to_csv(root / "data/split.csv", index=False)
    shutil.copy(REPOSITORY / "data/phantom.yaml", root / "data/phantom.yaml")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["lora_train"] |= LORA
    params["generate"] |= GENERATE
    params["mix"]["per_class"] = 1
    params["train"]["seeds"] = [1, 2]
    params["threads"] = 1
    write_text(root / "params.yaml", yaml.safe_dump(params))
    source = write_pipeline(root / "pipeline")
    info = {"source": source.as_posix(), "revision": None, "hash": pipeline_hash(source), "trained": False}
    write_json(root / "base/base.json", info)
    write_seen(root / "base", [])
    return root


def stage(root: Path, monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *paths: str) -> None:
    """Call a stage's `main` for df in `root`, `paths` after the disease, card, refined images and split."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["stage", "df", "data/phantom.yaml", "data/refined", "data/split.csv", *paths])
    main()


def change_params(root: Path, block: str, **values: Any) -> None:
    """Set `values` in a block of ROOT/params.yaml."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[block] |= values
    write_text(root / "params.yaml", yaml.safe_dump(params))


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under `folder`, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class FakeJudge:
    """Finds df with `p` in every image; remembers which folds it was told to leave out."""

    classes = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]  # noqa: RUF012
    accept, colourless = 0.5, False

    def __init__(self, p: float = 0.9) -> None:
        self.p, self.folds = p, []  # type: tuple[float, list[int]]

    def probabilities(self, images: np.ndarray, exclude_fold: np.ndarray = NO_FOLD) -> np.ndarray:
        """(N, 7): `p` for df, the rest in equal parts."""
        self.folds += exclude_fold.tolist()
        out = np.full((len(images), 7), (1 - self.p) / 6)
        out[:, 3] = self.p
        return out

    def excess(self, images: np.ndarray, label: str, exclude_fold: np.ndarray = NO_FOLD) -> np.ndarray:
        """(N,): every image lies among the real ones."""
        return np.zeros(len(images))
