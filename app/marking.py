"""Pictures that say to whoever opens them that AI made them: a band below the image, beside the mark in the file. Models are trained on images without it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.imaging.watermark import encode_marked

TEXT = "AI-generated"
LEAST = 256  # px: a smaller picture is enlarged for a person to look at
SHARE = 8  # the band is an eighth of the image's width, within LOW to HIGH px
LOW, HIGH = 18, 48
GROUND, INK = (20, 20, 20), (255, 255, 255)


def banded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) with a dark band added below, (H + band, W, 3), on which TEXT stands; the image itself is not touched."""
    width = pixels.shape[1]
    tall = min(max(width // SHARE, LOW), HIGH)
    band = Image.new("RGB", (width, tall), GROUND)
    font = ImageFont.load_default(min(0.7 * tall, width / 8))
    ImageDraw.Draw(band).text((width / 2, tall / 2), TEXT, fill=INK, font=font, anchor="mm")
    return np.concatenate([pixels, np.asarray(band)])


def to_look_at(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) as a PNG for a person: LEAST px wide or more, with the band, and with the mark in the file."""
    height, width = pixels.shape[:2]
    if width < LEAST:
        size = (LEAST, round(height * LEAST / width))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return encode_marked(banded(pixels))
