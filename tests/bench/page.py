"""The page measured: the model's part of a warm prediction, and the first paint in headless Chromium. Rows for reports/bench.md."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from playwright.sync_api import Browser

from app import artifacts
from stages.classifier.prediction import answer_case
from stages.imaging.phantoms import CLASSES, draw_lesion, render, rng_for
from stages.runtime.errors import UserError
from tests import browser

LIMIT_MS = 150.0  # p95 of a warm prediction, the model's part, on two cores
WARM_UP = 20
EMPTY = 'import streamlit as st\n\nst.title("Empty")\n'


def page_rows(root: Path) -> list[list[str]]:
    """Rows of `make bench` on the tracked models of the repository at `root`."""
    return [*prediction_rows(root), *paint_rows(root)]


def prediction_rows(root: Path, count: int = 200) -> list[list[str]]:
    """p95 of `answer_case`, one image at a time: whether the model may speak, and the whole ensemble; `count` images on which it may."""
    what = "warm prediction, the model's part, p95"
    place = artifacts.places(root)[0]
    regime = artifacts.candidate(place)
    try:
        predictor = artifacts.load(place, regime, artifacts.check(place, regime))
    except UserError as error:
        return [[what, f"not measured: {error}", f"limit: {LIMIT_MS:.0f} ms", "-", "1 or less"]]
    times: list[float] = []
    for k in range(2 * (WARM_UP + count)):  # few drawings are refused; a model that refuses half of them is measured on fewer
        image = render(draw_lesion(CLASSES[k % len(CLASSES)], rng_for("page", k)), rng_for("page photograph", k), predictor.size).pixels[None]
        start = time.perf_counter()
        _, result = answer_case(predictor, image)
        took = 1000 * (time.perf_counter() - start)
        if result is not None:
            times.append(took)
        if len(times) == WARM_UP + count:
            break
    warm = times[WARM_UP:]
    p95 = float(np.quantile(warm, 0.95))
    label = f"{what} ({place.name}, {regime}, {len(predictor.seeds)} networks, n = {len(warm)}; median {median(warm):.0f} ms)"
    return [[label, f"{p95:.0f} ms", f"limit: {LIMIT_MS:.0f} ms", f"{p95 / LIMIT_MS:.2f}", "1 or less"]]


def paint_rows(root: Path, visits: int = 5) -> list[list[str]]:
    """First contentful paint, and until the title can be read, beside an empty Streamlit page; medians of `visits`, each with an empty cache."""
    if browser.CHROMIUM is None:
        return [["first paint of the page", "not measured: chromium is not installed", "-", "-", "reported"]]
    with tempfile.TemporaryDirectory() as name, browser.browser() as opened:
        script = Path(name) / "empty.py"
        script.write_text(EMPTY)
        with browser.serve(root, script) as address:
            _, *empty = [visit(opened, address) for _ in range(visits + 1)]
        with browser.serve(root) as address:
            (_, cold), *ours = [visit(opened, address) for _ in range(visits + 1)]
    rows = []
    for k, what in enumerate(("first contentful paint of the page", "the page's title in sight")):
        mine, peer = median(one[k] for one in ours), median(one[k] for one in empty)
        rows.append([what, f"{mine:.0f} ms", f"an empty Streamlit page: {peer:.0f} ms", f"{mine / peer:.2f}", "reported"])
    warm = median(title for _, title in ours)
    rows.append(
        [
            "the page's title in sight, first visit after the server's start",
            f"{cold:.0f} ms",
            f"later: {warm:.0f} ms",
            f"{cold / warm:.2f}",
            "reported",
        ]
    )
    return rows


def visit(opened: Browser, address: str) -> tuple[float, float]:
    """Milliseconds from asking for the page to its first contentful paint and to its title, in a browser context that has seen nothing yet."""
    page = browser.open_page(opened, address)
    title = float(page.evaluate("performance.now()"))
    paint = float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    page.context.close()
    return paint, title
