"""Burned-in text: names and dates are flagged; hair, rulers, edges and noise are not."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from stages.imaging.text import burned_in_text
from tests.bench.text import pictures, text_rates
from tests.repository import ROOT

HAM = ROOT.parent / "shared/data/ham10000_200x150.tar"


def skin(seed: int = 0, width: int = 320, height: int = 240) -> Image.Image:
    """A smooth picture in the colours of skin."""
    small = np.random.default_rng(seed).integers((170, 110, 90), (230, 170, 150), (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [12, 16, 24, 36])
@pytest.mark.parametrize("colour", ["white", "black", "yellow"])
def test_a_name_is_flagged(size: int, colour: str) -> None:
    found = 0
    for seed in range(10):
        picture = skin(seed)
        ImageDraw.Draw(picture).text((5 + seed, 10 * seed), "DOE JANE 1957", fill=colour, font=ImageFont.load_default(size))
        found += burned_in_text(picture)
    assert found >= 8


def test_a_name_on_a_grey_scan_and_in_a_large_picture_is_flagged() -> None:
    scan = Image.new("RGB", (512, 512))
    pen = ImageDraw.Draw(scan)
    pen.ellipse((100, 80, 420, 440), fill=(120, 120, 120))
    pen.text((8, 8), "KOWALSKA ANNA", fill="white", font=ImageFont.load_default(14))
    assert burned_in_text(scan)
    large = skin(1, 3000, 2000)
    ImageDraw.Draw(large).text((100, 1800), "HOSPITAL ST MARY", fill="white", font=ImageFont.load_default(80))
    assert burned_in_text(large)


def test_hair_rulers_edges_and_noise_are_not_flagged() -> None:
    rng = np.random.default_rng(0)
    hairy, ruled, noise = skin(1), skin(2), Image.fromarray(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    for _ in range(40):
        x, y, length, angle = rng.uniform(0, 320), rng.uniform(0, 240), rng.uniform(40, 150), rng.uniform(0, 2 * np.pi)
        ImageDraw.Draw(hairy).line((x, y, x + length * np.cos(angle), y + length * np.sin(angle)), fill=(40, 25, 20), width=2)
    for x in range(10, 310, 12):
        ImageDraw.Draw(ruled).line((x, 210, x, 234), fill="black", width=2)
    framed = Image.new("RGB", (320, 240))
    framed.paste(skin(3, 250, 200), (35, 20))
    for picture in (skin(0), hairy, ruled, noise, framed, Image.new("RGB", (16, 16), "white")):
        assert not burned_in_text(picture)


@pytest.mark.skipif(not HAM.exists(), reason="needs ../shared/data")
def test_rates_on_real_photographs(tmp_path: Path) -> None:
    with tarfile.open(HAM) as tar:
        for member in [m for m in tar if m.isfile() and m.name.endswith(".jpg")][::100]:
            tar.extract(member, tmp_path, filter="data")
    rates = [float(row[3]) for row in text_rates("HAM10000", pictures(tmp_path, 100), sizes=(12, 16))]
    assert rates[0] <= 0.02 and min(rates[1:]) >= 0.6 and sum(rates[1:]) / 6 >= 0.85
