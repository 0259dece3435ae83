"""The README's pictures of every view of the page, made of drawings alone, with the repository's own models in headless Chromium.

python -m tests.screenshot            writes reports/screenshots/*.png; needs chromium and the default run
"""

from __future__ import annotations

import os
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from app.artifacts import places
from stages.dataset.card import read_card
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_bytes
from tests import browser
from tests.test_app import noise
from tests.tiny_root import phantom_png, write_settings

FOLDER = browser.REPOSITORY / "reports" / "screenshots"
WIDE, PHONE = (1280, 1000), (380, 1000)
SHOWN = 0.75  # of a picture's pixels are kept: they stand two in a row
COLOURS = 192  # with these a picture stays under 150 KB
LAST = {  # the last words of a view: when they are there, it is drawn
    "compare": "The verdict in full",
    "gallery": "The audit in full",
    "data": "What was left out",
    "card": "groups_sha256",
    "history": "Erase every reading",
}


def main(root: Path = browser.REPOSITORY, folder: Path = FOLDER) -> None:
    """A result, its risk, a refusal, a telephone, and every other view; the history, which is off by default, is on."""
    if browser.CHROMIUM is None:
        raise UserError("chromium is not installed: apt-get install chromium")
    if not read_card(places(root)[0].card).phantom:
        raise UserError("params.yaml: dataset is not the drawings, and pictures of patients do not belong in a README")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RARELENS_SETTINGS"] = str(write_settings(Path(temporary) / "settings.toml", history=Path(temporary) / "history.sqlite"))
        with browser.serve(root) as address, browser.browser() as opened:
            reading(opened, address, folder)
            drawing(opened, address, folder)
            others(opened, address, folder)


def reading(opened: Browser, address: str, folder: Path) -> None:
    """A drawn dermatofibroma on a wide screen and a telephone, the risk with an answer, and an image that is no lesion."""
    page = browser.open_page(opened, address, *WIDE)
    browser.read_image(page, phantom_png("df", 256))
    keep(page, folder / "predict.png")
    page.get_by_role("radiogroup", name="firm").get_by_text("Yes").click()
    page.get_by_text("EXAMPLE, no source opened").first.wait_for()
    page.get_by_role("heading", name="Risk, with").evaluate("heading => heading.scrollIntoView()")
    keep(page, folder / "risk.png")
    page = browser.open_page(opened, address, *PHONE)
    browser.read_image(page, phantom_png("df", 256))
    keep(page, folder / "phone.png")
    page = browser.open_page(opened, address, *WIDE)
    browser.read_image(page, noise(256), "holiday.png")
    keep(page, folder / "refused.png")


def drawing(opened: Browser, address: str, folder: Path) -> None:
    """Images drawn from words."""
    page = browser.open_page(opened, f"{address}/generate", *WIDE)
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("Take all images (ZIP)").wait_for()
    keep(page, folder / "generate.png")


def others(opened: Browser, address: str, folder: Path) -> None:
    """The top of every other view."""
    for view, words in LAST.items():
        page = browser.open_page(opened, f"{address}/{view}", *WIDE)
        page.get_by_text(words).first.wait_for()
        keep(page, folder / f"{view}_view.png")  # data.png is a name that git ignores


def keep(page: Page, path: Path) -> None:
    """Write what `page` shows, in fewer pixels and colours; say how large the file is."""
    browser.settle(page)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    small = picture.resize((round(SHOWN * picture.width), round(SHOWN * picture.height)), Image.Resampling.LANCZOS)
    out = BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    write_bytes(path, out.getvalue())
    print(f"{path.name}: {len(out.getvalue()) / 1000:.0f} KB", flush=True)


if __name__ == "__main__":
    run(main)
