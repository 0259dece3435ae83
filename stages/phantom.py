"""Draw the embedded data set: dermoscopy phantoms with HAM10000's classes and long tail (drawings, not patients).

In:  params.yaml (blocks `phantom`, `threads`).
Out: OUT_DIR/images/<id>.png and OUT_DIR/metadata.csv with a row an image: file, dx, lesion_id, split, age, sex, site,
     skin_tone, box_x0, box_y0, box_x1, box_y1 (the lesion's box in px, right and bottom exclusive), hairs.
     The long tail lies in `train`, 1 to 3 images a lesion; the other parts hold set counts, one image a lesion.

    python -m stages.phantom OUT_DIR
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from stages.imaging import phantoms
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, write_text
from stages.runtime.params import Phantom, read_params
from stages.runtime.progress import progress


class Draw(NamedTuple):
    """One lesion to draw: its part of the data, class, running number there and number of images."""

    split: str
    label: str
    lesion: int
    images: int


def plan(p: Phantom) -> list[Draw]:
    """Every lesion of the data set. In `train` lesions have 1 to 3 images, in all exactly `p.train[label]` a class.

    Raises `UserError` when the parameters do not fit the renderer.
    """
    if p.version != phantoms.VERSION:
        raise UserError(f"params.yaml: phantom.version is {p.version}, stages/imaging/phantoms.py draws version {phantoms.VERSION}; set it to that")
    unknown = sorted(set(p.train) - set(phantoms.CLASSES))
    if unknown:
        raise UserError(f"params.yaml: phantom.train names unknown class(es) {', '.join(unknown)}; known are {', '.join(phantoms.CLASSES)}")
    draws = []
    for label in sorted(p.train):
        kind = "rare" if label in phantoms.RARE else "common"
        rng, lesion, left = phantoms.rng_for("phantom", p.seed, "images a lesion", label), 0, p.train[label]
        while left:
            images = min(left, int(rng.integers(1, 4)))
            draws.append(Draw("train", label, lesion, images))
            lesion, left = lesion + 1, left - images
        single = {"val": p.val, "cal": p.cal, "test": p.test, "reserve": getattr(p.reserve, kind), "oracle": getattr(p.oracle, kind)}
        draws += [Draw(split, label, lesion, 1) for split, count in single.items() for lesion in range(count)]
    return draws


def draw(folder: Path, seed: int, size: int, what: Draw) -> list[dict[str, object]]:
    """Render the images of one lesion into `folder` and return their rows.

    Everything depends on (seed, split, label, lesion, image) alone; file names and lesion ids do not give the class away.
    """
    key = ("phantom", seed, what.split, what.label, what.lesion)
    lesion = phantoms.draw_lesion(what.label, phantoms.rng_for(*key))
    rows = []
    for image in range(what.images):
        photo = phantoms.render(lesion, phantoms.rng_for(*key, image), size)
        file = f"images/{_name(*key, image)}.png"
        Image.fromarray(photo.pixels).save(folder / file, compress_level=1)
        attributes = {"age": lesion.age, "sex": lesion.sex, "site": lesion.site, "skin_tone": lesion.skin_tone}
        box = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), photo.box, strict=True))
        rows.append({"file": file, "dx": what.label, "lesion_id": _name(*key), "split": what.split} | attributes | box | {"hairs": photo.hairs})
    return rows


def _name(*key: object) -> str:
    return hashlib.sha256("/".join(map(str, key)).encode()).hexdigest()[:12]


def draw_all(p: Phantom, folder: Path, processes: int) -> pd.DataFrame:
    """Render the whole plan into `folder`; the metadata table, sorted by file, does not depend on `processes`."""

    def lesions() -> Iterator[list[dict[str, object]]]:
        with ProcessPoolExecutor(processes) as pool:
            yield from pool.map(partial(draw, folder, p.seed, p.size), draws, chunksize=16)

    draws = plan(p)
    rows = [row for lesion in progress(lesions(), "phantoms", "lesion", len(draws)) for row in lesion]
    return pd.DataFrame(rows).sort_values("file", ignore_index=True)


def main() -> None:
    """Read the parameters, draw, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, e.g. data/raw/phantom")
    args = parser.parse_args()
    params = read_params()
    plan(params.phantom)  # refuse before the old folder is removed
    folder = fresh(args.out)
    (folder / "images").mkdir()
    table = draw_all(params.phantom, folder, params.threads)
    write_text(folder / "metadata.csv", table.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    run(main)
