"""What can be read from a picture without looking at the disease: its border, the region outside the lesion's box, the file it came in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Masks = Callable[[NDArray[np.intp]], NDArray[np.bool_]]
Images = Callable[[NDArray[np.intp]], NDArray[np.uint8]]
BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
LUMINANCE = np.array([0.299, 0.587, 0.114])  # Rec. 601
MARGIN = 1 / 16  # of the side: the border's width, and how far around its box a lesion may still show
LEAST_PIXELS = 16  # that a region must have for its numbers to count
MOST_VALUES = 50  # of a column of the table, which have a column of numbers each
CHUNK = 1024  # pictures held at once


@dataclass(frozen=True)
class Probe:
    """One way to look past the disease: `values` (N, D), a row an image, NaN where it cannot be said.

    `seen` gives, for rows (n,), the pixels that were looked at, (n, H, W); None for what the file says about itself. `shown` (N,) is what a
    picture's caption says of it.
    """

    name: str
    values: Floats
    seen: Masks | None = None
    shown: list[str] | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which images have a value, (N,)."""
        return np.asarray(~np.isnan(self.values).any(1))

    def of(self, rows: NDArray[np.intp]) -> Probe:
        """The probe of the images `rows` alone."""
        seen = self.seen
        return Probe(
            self.name,
            self.values[rows],
            None if seen is None else lambda some: seen(rows[some]),
            None if self.shown is None else [self.shown[k] for k in rows],
        )


def border(count: int, size: int) -> NDArray[np.bool_]:
    """The outermost sixteenth of a square picture, (count, size, size): one mask seen `count` times, not to be written to."""
    width = max(1, round(size * MARGIN))
    ring = np.ones((size, size), bool)
    ring[width:-width, width:-width] = False
    return np.broadcast_to(ring, (count, size, size))


def outside_box(table: pd.DataFrame, size: int) -> NDArray[np.bool_]:
    """The pixels (N, size, size) outside each lesion's box, widened by a sixteenth of the side, as they lie in the refined square.

    `table` has box_x0, box_y0 (first pixel) and box_x1, box_y1 (one past the last) in px of the original, whose width and height it gives.
    An image without a box (missing or empty) has no such region.
    """
    side = table[["width", "height"]].min(axis=1).to_numpy(float)
    x0, y0, x1, y1 = (table[name].to_numpy(float) for name in BOX)
    left, top = (table["width"].to_numpy(float) - side) / 2, (table["height"].to_numpy(float) - side) / 2
    scale, margin = size / side, size * MARGIN
    near = [
        (edge - corner) * scale + shift for edge, corner, shift in ((x0, left, -margin), (y0, top, -margin), (x1, left, margin), (y1, top, margin))
    ]
    at = np.arange(size) + 0.5
    in_x = (at > near[0][:, None]) & (at < near[2][:, None])
    in_y = (at > near[1][:, None]) & (at < near[3][:, None])
    known = (x1 > x0) & (y1 > y0)  # False for NaN
    return np.asarray(~(in_y[:, :, None] & in_x[:, None, :]) & known[:, None, None])


def region_values(images: NDArray[np.uint8], seen: NDArray[np.bool_]) -> dict[str, Floats]:
    """Brightness, colour and texture of the pixels `seen` (N, H, W) of `images` (N, H, W, 3), each (N, D); NaN where under 16 are seen.

    Brightness: mean, 10th, 50th and 90th percentile, 0..1. Colour: the means of red and blue less green. Texture: log of the mean
    absolute difference between neighbours that are both seen.
    """
    brightness, colour, texture = np.full((len(images), 4), np.nan), np.full((len(images), 2), np.nan), np.full((len(images), 1), np.nan)
    for k, (image, where) in enumerate(zip(images, seen, strict=True)):
        if where.sum() < LEAST_PIXELS:
            continue
        grey = image @ LUMINANCE / 255
        mean = image[where].mean(0) / 255
        brightness[k] = [grey[where].mean(), *np.percentile(grey[where], (10, 50, 90))]
        colour[k] = mean[0] - mean[1], mean[2] - mean[1]
        steps = [np.abs(np.diff(grey, axis=axis))[both] for axis, both in ((0, where[1:] & where[:-1]), (1, where[:, 1:] & where[:, :-1]))]
        texture[k] = np.log(np.concatenate(steps).mean() + 1e-3)
    return {"brightness": brightness, "colour": colour, "texture": texture}


def regions(table: pd.DataFrame, size: int) -> dict[str, NDArray[np.bool_]]:
    """Where probes look, each (N, size, size): the border and, where `table` has boxes, what lies outside of the lesion."""
    around = border(len(table), size)
    if not set(BOX) <= set(table):
        return {"border": around}
    outside = outside_box(table, size)
    boxed = np.asarray(outside.any((1, 2)))
    around = around & (outside | ~boxed[:, None, None])  # a lesion that reaches the border is not the border
    return {"border": around, "outside of the lesion": outside}


def compression(table: pd.DataFrame, png_bytes: NDArray[np.int64], size: int) -> Floats:
    """How small the file is for what it shows, (N, 1): log bytes a pixel less what the picture itself explains.

    Bytes alone would see the disease: a patterned lesion needs more of them. So log bytes a pixel is regressed, without the labels, on
    those of the whole picture saved anew as JPEG at one quality (`recoded_bytes`, luminance, by refine) and of the refined one, `size` px
    a side, as PNG (`png_bytes` (N,)); the residual is left.
    """
    pixels = (table["width"] * table["height"]).to_numpy(float)
    density, whole = (np.log(table[name].to_numpy(float) / pixels) for name in ("file_bytes", "recoded_bytes"))
    refined = np.log(png_bytes / size**2)
    known = np.column_stack([np.ones(len(table)), whole, refined, whole**2, refined**2, whole * refined])
    # Rounded: where all files are of one length (the images of an archive), what is left is the error of the sums, which sees the picture.
    return np.round((density - known @ np.linalg.lstsq(known, density, rcond=None)[0])[:, None], 6)


def png_length(image: NDArray[np.uint8]) -> int:
    """Bytes of (H, W, 3) pixels as PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=6)
    return out.tell()


def one_hot(values: pd.Series) -> Floats:
    """A column for each value that occurs, (N, D), in sorted order; of very many the most frequent have one each, the rest one together."""
    text = values.astype(str)
    frequent = text.value_counts().head(MOST_VALUES).index
    return pd.get_dummies(text.where(text.isin(frequent), "other")).to_numpy(float)


def pixel_values(table: pd.DataFrame, images: Images) -> tuple[dict[tuple[str, str], Floats], NDArray[np.int64], int]:
    """What is measured in the pictures, `CHUNK` of them in memory at once: `region_values` by what and where, (N, D) each; bytes as PNG, (N,);
    and the side in px. `table` has at least one row.
    """
    parts: dict[tuple[str, str], list[Floats]] = {}
    lengths, size = [], 0
    for start in range(0, len(table), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(table)))
        some = images(rows)
        size = some.shape[1]
        for where, seen in regions(table.iloc[rows], size).items():
            for what, values in region_values(some, seen).items():
                parts.setdefault((what, where), []).append(values)
        lengths += [png_length(image) for image in some]
    return {key: np.concatenate(values) for key, values in parts.items()}, np.array(lengths), size


def all_probes(table: pd.DataFrame, images: Images, acquisition: list[str]) -> list[Probe]:
    """Every probe that `table` (a refined table's rows) has something for.

    `images` gives the refined pictures (n, H, W, 3) of rows (n,) of `table`; `acquisition` names columns that say how a picture was taken. A
    probe whose values are the same for every image tells nothing and is left out.
    """
    measured, lengths, size = pixel_values(table, images)

    def masks(where: str) -> Masks:
        return lambda rows: regions(table.iloc[rows], size)[where]

    found = [Probe(f"{what} of the {where}", values, masks(where)) for (what, where), values in measured.items()]
    width, height = table["width"].to_numpy(float), table["height"].to_numpy(float)
    sizes = [f"{w:.0f} x {h:.0f} px" for w, h in zip(width, height, strict=True)]
    found += [
        Probe("image size", np.log(np.column_stack([width, height])), shown=sizes),
        Probe("aspect ratio", np.log(width / height)[:, None], shown=sizes),
        Probe("file format", one_hot(table["format"]), shown=list(table["format"])),
        Probe("colour mode", one_hot(table["mode"]), shown=list(table["mode"])),
    ]
    residual = compression(table, lengths, size)
    found.append(Probe("compression", residual, shown=[f"{100 * (np.exp(r) - 1):+.0f}% bytes" for r in residual[:, 0]]))
    for name in acquisition:
        values = table[name]
        numeric = pd.api.types.is_numeric_dtype(values)
        found.append(Probe(name.replace("_", " "), values.to_numpy(float)[:, None] if numeric else one_hot(values), shown=list(values.astype(str))))
    return [probe for probe in found if (np.nanmax(probe.values, axis=0, initial=-np.inf) > np.nanmin(probe.values, axis=0, initial=np.inf)).any()]
