"""Mammograms as a clinic has them: DICOM of both polarities beside PNG, a table with patients, views and densities, refined by the shipped card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from stages.dataset.card import read_card
from stages.dataset.table import decode, read_table
from stages.diffusion.prompts import render_prompts
from stages.imaging.refining import encode_png
from tests.repository import ROOT
from tests.test_dicom import dataset, written
from tests.test_refine import quarantine, run_refine

CARD = ROOT / "data/mammograms.yaml"
TABLE = """\
file,finding,patient,view,side,density,age
0001/L_CC.dcm,lesion,0001,CC,left,C,61
0001/L_MLO.dcm,lesion,0001,MLO,left,C,61
0001/R_CC.dcm,healthy,0001,CC,right,,61
0002/R_MLO.png,healthy,0002,,,B,
"""


def breast(key: int, lesion: bool) -> NDArray[np.uint16]:
    """Half an ellipse of 12-bit tissue at the left border, with a dense spot where there is a `lesion`, (96, 64)."""
    y, x = np.mgrid[:96, :64]
    inside = ((y - 48) / 44) ** 2 + (x / 56) ** 2 < 1
    tissue = 1500 + 400 * gaussian_filter(np.random.default_rng(key).normal(size=(96, 64)), 3) * 10
    spot = 1500 * np.exp(-((y - 40) ** 2 + (x - 20) ** 2) / 40) if lesion else 0
    return np.where(inside, np.clip(tissue + spot, 300, 4000), 0).astype(np.uint16)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two women; the second view of the first is stored with white as 0."""
    folder = tmp_path / "raw"
    for name in ("0001", "0002"):
        (folder / name).mkdir(parents=True)
    (folder / "0001/L_CC.dcm").write_bytes(written(dataset(breast(1, True))))
    (folder / "0001/L_MLO.dcm").write_bytes(written(dataset(4095 - breast(2, True), "MONOCHROME1")))
    (folder / "0001/R_CC.dcm").write_bytes(written(dataset(breast(3, False))))
    (folder / "0002/R_MLO.png").write_bytes(encode_png(np.repeat((breast(4, False) // 16).astype(np.uint8)[..., None], 3, axis=2)))
    (folder / "mammograms.csv").write_text(TABLE)
    return folder


def test_a_folder_of_mammograms_is_refined_and_tells_view_and_density_in_the_prompt(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_refine(monkeypatch, tmp_path, raw, tmp_path / "out", yaml.safe_load(CARD.read_text()))
    assert quarantine(tmp_path / "out") == {"mammograms.csv": "metadata table named by the card, not an image"}
    table = read_table(tmp_path / "out").sort_values(["label", "view"], ascending=[False, True], na_position="last", ignore_index=True)
    assert table.groupby("group")["label"].apply(sorted).tolist() in (
        [["healthy"], ["healthy", "lesion", "lesion"]],
        [["healthy", "lesion", "lesion"], ["healthy"]],
    )
    card = read_card(CARD)
    prompts = [render_prompts(card.prompts[str(row["label"])], row, card.classes[str(row["label"])].title)[0] for row in table.to_dict("records")]
    assert prompts == [
        "a mammogram of a breast with a lesion, left, CC view, density C",
        "a mammogram of a breast with a lesion, left, MLO view, density C",
        "a mammogram of a healthy breast, CC view",
        "a mammogram of a healthy breast, density B",
    ]
    images = decode(table["image"])[..., 0].astype(float)
    assert (images[:, :, -4:].mean((1, 2)) < 20).all(), "air is black, MONOCHROME1 too"
    side = images.shape[1]
    where = np.s_[:, int(side * 22 / 64) : int(side * 26 / 64), int(side * 18 / 64) : int(side * 22 / 64)]  # the middle square begins 16 px down
    assert (images[where].mean((1, 2))[:2] > 150).all() and (images[where].mean((1, 2))[2:] < 150).all(), "a lesion is bright"
