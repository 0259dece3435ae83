"""The README's pictures of the page, made with the repository's own models in headless Chromium.

python -m tests.screenshot            writes reports/screenshots/predict.png and compare.png
"""

from __future__ import annotations

from pathlib import Path

from stages.runtime.errors import UserError, run
from tests import browser
from tests.tiny_root import phantom_png

FOLDER = browser.REPOSITORY / "reports" / "screenshots"
WIDTH, HEIGHT = 1280, 1100


def main(root: Path = browser.REPOSITORY, folder: Path = FOLDER) -> None:
    """Upload a drawn dermatofibroma and picture the result, then picture the comparison of regimes."""
    if browser.CHROMIUM is None:
        raise UserError("chromium is not installed: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with browser.serve(root) as address, browser.browser() as opened:
        page = browser.open_page(opened, address, WIDTH, HEIGHT)
        browser.read_image(page, phantom_png("df", 256))
        browser.settle(page)
        page.screenshot(path=folder / "predict.png")
        page = browser.open_page(opened, f"{address}/compare", WIDTH, HEIGHT)
        page.get_by_text("The verdict in full").wait_for()
        browser.settle(page)
        page.screenshot(path=folder / "compare.png")
    print(f"{folder}: predict.png, compare.png")


if __name__ == "__main__":
    run(main)
