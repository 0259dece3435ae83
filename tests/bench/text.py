"""How often burned-in text is found, and how often it is seen where there is none: rows for reports/bench.md."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.imaging.decode import Refused, decode
from stages.imaging.text import burned_in_text

LINES = ("DOE JANE 12/03/1957", "ID 447122", "Kowalska Anna", "2021-04-17 10:22", "HOSPITAL ST MARY", "Smith J")
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "yellow": (255, 255, 0)}
VISIBLE = 60  # least difference in luminance from the mean under the text, of 255; yellow differs in hue too


def pictures(folder: Path, count: int, seed: int = 0) -> list[Image.Image]:
    """Up to `count` decoded pictures from anywhere under `folder`, chosen by `seed`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found: list[Image.Image] = []
    for i in np.random.default_rng(seed).permutation(len(files)):
        if len(found) == count:
            break
        try:
            found.append(decode(files[i].read_bytes()).picture)
        except Refused:
            continue
    return found


def written(picture: Image.Image, size: int, colour: str, rng: np.random.Generator) -> Image.Image | None:
    """`picture` with a line of text somewhere, saved as JPEG (quality 85); None where it does not fit or could not be seen."""
    font, line = ImageFont.load_default(size), str(rng.choice(LINES))
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    wide, high = int(pen.textlength(line, font=font)), int(1.2 * size)
    if wide >= picture.width or high >= picture.height:
        return None
    x, y = int(rng.integers(picture.width - wide)), int(rng.integers(picture.height - high))
    under = float(np.asarray(picture.convert("L").crop((x, y, x + wide, y + high))).mean())
    own = 0.299 * COLOURS[colour][0] + 0.587 * COLOURS[colour][1] + 0.114 * COLOURS[colour][2]
    if abs(under - own) < VISIBLE:
        return None
    pen.text((x, y), line, fill=COLOURS[colour], font=font)
    out = io.BytesIO()
    drawn.save(out, "JPEG", quality=85)
    return decode(out.getvalue()).picture


def text_rates(name: str, clean: list[Image.Image], sizes: tuple[int, ...] = (10, 12, 16, 24)) -> list[list[str]]:
    """Rows (what, measured, peer or limit, ratio, wanted) for pictures that carry no text."""
    false = sum(burned_in_text(p) for p in clean)
    rows = [[f"burned-in text seen where none is, {name}", f"{false} of {len(clean)}", "", f"{false / len(clean):.3f}", "reported"]]
    for size in sizes:
        for colour in COLOURS:
            rng = np.random.default_rng([size, len(colour)])
            drawn = [d for p in clean if (d := written(p, size, colour, rng)) is not None]
            found = sum(burned_in_text(d) for d in drawn)
            what = f"burned-in text found, {colour}, {size} px, {name}"
            rows.append([what, f"{found} of {len(drawn)}", "", f"{found / max(len(drawn), 1):.2f}", "reported"])
    return rows
