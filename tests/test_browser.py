"""The page in headless Chromium: upload, read the result, on a wide screen and on a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from app import wording, wording_risk
from tests import browser
from tests.tiny_root import build, phantom_png

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser.serve(build(tmp_path_factory.mktemp("root"))) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 380])
def test_upload_and_read_the_result(address: str, chromium: Browser, tmp_path: Path, width: int) -> None:
    page = browser.open_page(chromium, address, width)
    browser.read_image(page, phantom_png())
    text = page.inner_text("body")
    for expected in ("Dermatofibroma", "of 1,000", wording.PHANTOM, wording_risk.INDEPENDENCE, "model (md5)"):
        assert expected in text
    notice = page.get_by_text(wording.NOTICE).last
    page.get_by_role("heading", name="Where this comes from").scroll_into_view_if_needed()
    assert notice.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    page.get_by_role("radiogroup", name="firm").get_by_text("Yes").click()
    page.get_by_text("EXAMPLE, no source opened").first.wait_for()
    page.screenshot(path=tmp_path / "predict.png")
    assert (tmp_path / "predict.png").stat().st_size > 10_000


def test_a_broken_file_and_the_other_views(address: str, chromium: Browser) -> None:
    page = browser.open_page(chromium, address)
    page.locator("input[type=file]").set_input_files({"name": "broken.png", "mimeType": "image/png", "buffer": b"nothing"})
    page.get_by_text("cannot be read by this model").wait_for()
    page.goto(f"{address}/compare")
    page.get_by_role("heading", name="Did synthesis help?").wait_for()
    page.get_by_role("heading", name="no evidence that synthesis helps").wait_for()
    page.goto(f"{address}/gallery")
    page.get_by_text("No synthetic images here").wait_for()
    page.goto(f"{address}/generate")
    page.get_by_text("The generator of phantom is not here").wait_for()
    assert "Traceback" not in page.inner_text("body")
