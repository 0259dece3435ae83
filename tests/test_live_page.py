"""The page on models that were really trained (the smoke run), in headless Chromium: twenty readers at once; drawing, taking away and stopping."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from app import wording
from stages.dataset.card import read_card
from stages.imaging.watermark import is_marked
from stages.runtime.files import sha256
from tests import browser
from tests.repository import command

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
READERS = 20
CELLS = "table => [...table.querySelectorAll('tbody tr')].map(row => [...row.cells].slice(0, 2).map(cell => cell.innerText.trim()))"


@pytest.fixture(scope="module")
def address(smoke_repo: Path) -> Iterator[str]:
    with browser.serve(smoke_repo) as found:
        yield found


def open_smoke(chromium: Browser | BrowserContext, address: str, view: str = "") -> Page:
    """A view of the smoke run, which is not the default."""
    page = browser.open_page(chromium, f"{address}/{view}")
    browser.choose(page, "Data set", "smoke")
    page.get_by_text("Dermoscopy phantoms (drawings), smoke run").first.wait_for()
    return page


def test_twenty_readers_at_once_each_get_the_answer_to_their_own_image(smoke_repo: Path, address: str, chromium: Browser, tmp_path: Path) -> None:
    files = sorted((smoke_repo / "data/raw/smoke/images").iterdir())[:READERS]
    (tmp_path / "images").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "images")
    command(smoke_repo, "-m", "stages.predict", "models/smoke/combined", str(tmp_path / "images"), str(tmp_path / "alone.csv"))
    alone = pd.read_csv(tmp_path / "alone.csv").set_index("file").to_dict("index")
    titles = {key: wording.heading(entry.title) for key, entry in read_card(smoke_repo / "data/smoke.yaml").classes.items()}

    cache = chromium.new_context()  # of the page's scripts; to the server each tab is a reader
    pages = [open_smoke(cache, address) for _ in files]
    for page, file in zip(pages, files, strict=True):
        page.locator("input[type=file]").set_input_files(file)
    answers = set()
    for page, file in zip(pages, files, strict=True):
        page.get_by_text("this image (sha256)").wait_for()
        text, row = page.inner_text("body"), alone[file.name]
        assert sha256(file) in text and sum(sha256(other) in text for other in files) == 1
        if row["status"] == "ok":
            shown = dict(page.get_by_role("table").filter(has_text="Of 1,000 images like this").evaluate(CELLS))
            assert shown == {title: wording.of_1000(row[f"p_{key}"]) for key, title in titles.items()}
            answers.add(tuple(sorted(shown.items())))
        else:
            assert "the model may not speak on it" in text
        page.close()
    assert len(answers) > READERS / 2, "the answers differ, or mixing them up would not show"


def test_images_are_drawn_and_taken_away_and_a_drawing_can_be_stopped(address: str, chromium: Browser) -> None:
    page = open_smoke(chromium, address, "generate")

    def order(count: int) -> None:
        page.get_by_role("spinbutton", name="How many images").fill(str(count))
        page.get_by_role("button", name="Draw", exact=True).click()

    order(2)
    with page.expect_download() as given:
        page.get_by_role("button", name="Take all images (ZIP)").click()
    with zipfile.ZipFile(io.BytesIO(given.value.path().read_bytes())) as archive:
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert [name for name in pictures if name.startswith("train/")] == ["train/0000.png", "train/0001.png"]
        assert len(pictures) == 5 and all(is_marked(archive.read(name)) for name in pictures)  # to look at there is a sheet, too
    order(32)
    page.get_by_text(re.compile(r"\d+ of 32 done")).wait_for()
    other = open_smoke(chromium, address, "generate")
    other.get_by_role("button", name="Draw", exact=True).click()
    other.get_by_text("Another drawing is under way on this server").wait_for()
    page.get_by_role("button", name="Stop drawing").click()
    page.get_by_text(re.compile(r"Stopped: \d+ of 32 done\.")).wait_for()
    done = re.search(r"Stopped: (\d+) of 32", page.inner_text("body"))
    assert done and int(done[1]) < 32
    other.get_by_role("button", name="Draw", exact=True).click()
    other.get_by_role("button", name="Stop drawing").click()  # it may draw now
    other.get_by_text(re.compile(r"Stopped: \d+ of")).wait_for()
