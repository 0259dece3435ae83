"""Boxes from masks: what is white is boxed, what cannot be is said, and the audit's region lies outside of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import boxes
from stages.quality.probes import BOX, outside_box
from stages.runtime.errors import UserError
from tests.one_process import call


def mask(path: Path, x0: int, y0: int, x1: int, y1: int) -> None:
    """A white box on black, 40 by 30 px, without loss."""
    pixels = np.zeros((30, 40), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_masks_become_boxes_and_broken_ones_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask(tmp_path / "masks/b_segmentation.png", 12, 5, 30, 20)
    mask(tmp_path / "masks/a_segmentation.png", 5, 0, 35, 29)
    mask(tmp_path / "masks/empty_segmentation.png", 0, 0, 0, 0)
    (tmp_path / "masks/broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "masks/dangling.png").symlink_to(tmp_path / "nowhere")
    call(boxes.main, ["boxes", str(tmp_path / "masks"), str(tmp_path / "boxes.csv"), "--suffix", "_segmentation"])
    found = pd.read_csv(tmp_path / "boxes.csv")
    assert found.to_numpy().tolist() == [["a", 5, 0, 35, 29], ["b", 12, 5, 30, 20]] and found.columns.tolist() == ["image_id", *BOX]
    said = capsys.readouterr().out
    assert (
        "broken.png has no box" in said
        and "dangling.png has no box: no regular file" in said
        and "empty_segmentation.png has no box: no white pixel" in said
        and "2 boxes" in said
    )
    outside = outside_box(found.assign(width=40, height=30), 30)
    assert not outside[1, 12, 15] and outside[1, 25, 15] and outside[1, 12, 28]


def test_a_folder_without_a_mask_and_two_masks_of_one_image_stop(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="no mask that can be read"):
        call(boxes.main, ["boxes", str(tmp_path / "none"), str(tmp_path / "out.csv")])
    for name in ("a.png", "a.bmp"):
        mask(tmp_path / "masks" / name, 5, 5, 20, 20)
    with pytest.raises(UserError, match="several masks of 'a'"):
        call(boxes.main, ["boxes", str(tmp_path / "masks"), str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()
