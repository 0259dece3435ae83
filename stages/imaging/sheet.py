"""Contact sheets: many images on one page, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.imaging.watermark import mark


def save_sheet(rows: dict[str, NDArray[np.uint8]], path: Path, zoom: int = 2, generated: bool = False) -> None:
    """A contact sheet: one titled row of images per entry. `generated`: some of it is AI-generated, and the file says so."""
    side = next(iter(rows.values())).shape[1] * zoom
    width, margin = max(len(v) for v in rows.values()), 16
    page = Image.new("RGB", (width * side, len(rows) * (side + margin)), "white")
    pen = ImageDraw.Draw(page)
    for r, (title, images) in enumerate(rows.items()):
        pen.text((4, r * (side + margin) + 2), title, fill="black")
        for k, image in enumerate(images):
            page.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (k * side, r * (side + margin) + margin))
    page.save(path, optimize=True, pnginfo=mark() if generated else None)
