"""Pictures of the data report: what a probe sees, and images to be compared by eye."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.imaging.watermark import mark
from stages.metrics.figures import heading, save
from stages.quality.probes import Images, Probe
from stages.quality.shortcut import Finding

EXTREMES = 8  # images at either end
UNSEEN = 200  # grey of the pixels that a probe does not see
SIDE, LINE = 112, 12  # px of a picture and of a line of its caption


def draw_shortcut(finding: Finding, probe: Probe, positive: NDArray[np.bool_], images: Images, disease: str, against: str, path: Path) -> None:
    """The worst probe of a disease: how its score spreads on both sides, and the images at either end, cropped to what the probe sees.

    `positive` (N,) in the order of `finding.scores`; `images` gives the pictures (n, H, W, 3) of positions (n,) in it.
    """
    scores = np.asarray(finding.scores)
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(3, EXTREMES, height_ratios=[2, 1, 1])
    axis = figure.add_subplot(grid[0, :])
    bins = np.linspace(0, 1, 26).tolist()
    own = scores[positive & np.isfinite(scores)]
    n = len(own)
    axis.hist(own, bins, weights=np.full(n, 1 / n), color="#e45756", label=f"{n} images of {disease}")
    axis.axhline(1 / (len(bins) - 1), color="#4c78a8", ls="--", label="if this told nothing")
    axis.set(xlabel=f"share of {against} that is less like {disease}, by this alone", ylabel="share of the images", xlim=(0, 1))
    axis.legend(loc="upper left")
    order = np.argsort(scores, kind="stable")[: int(np.isfinite(scores).sum())]
    ends = {f"least like {disease}": order[:EXTREMES], f"most like {disease}": order[::-1][:EXTREMES]}
    for row, (title, chosen) in enumerate(ends.items(), start=1):
        shown = images(chosen)
        if probe.seen is not None:
            shown = np.where(probe.seen(chosen)[..., None], shown, UNSEEN).astype(np.uint8)
        for column, (k, picture) in enumerate(zip(chosen, shown, strict=True)):
            panel = figure.add_subplot(grid[row, column])
            panel.imshow(picture, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{title}:" if column == 0 else " ", fontsize=9, loc="left")
            said = disease if positive[k] else f"not {disease}"
            panel.set_xlabel("\n".join([textwrap.shorten(said, 22, placeholder="…"), *([probe.shown[k]] if probe.shown else [])]), fontsize=7)
    seen = "; grey: not looked at" if probe.seen is not None else ""
    heading(figure, f"{disease} against {against}: {probe.name}, AUC {finding.auc:.2f} ({finding.low:.2f} to {finding.high:.2f}){seen}")
    save(figure, path)


def captioned(rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]], path: Path, generated: bool = False) -> None:
    """A page of rows of pictures (H, W, 3), each over its caption, wrapped. `generated`: some are AI-generated, and the file says so."""
    wrapped = [[(picture, textwrap.wrap(caption, SIDE // 6)) for picture, caption in row] for row in rows]
    lines = max(len(text) for row in wrapped for _, text in row)
    width, height = SIDE + 8, SIDE + LINE * lines + 8
    page = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), "white")
    pen = ImageDraw.Draw(page)
    for r, row in enumerate(wrapped):
        for c, (picture, text) in enumerate(row):
            page.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST), (c * width, r * height))
            for k, line in enumerate(text):
                pen.text((c * width + 2, r * height + SIDE + LINE * k), line, fill="black")
    page.save(path, optimize=True, pnginfo=mark() if generated else None)
