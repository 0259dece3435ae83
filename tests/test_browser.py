"""The page in headless Chromium: upload, read the result, on a wide screen and on a telephone."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser
from sklearn.datasets import load_sample_image

from app import wording, wording_risk
from stages.classifier.reading import read
from stages.imaging.refining import encode_png
from stages.runtime.files import write_text
from tests import browser, tiny_ham
from tests.test_dicom import dataset, written
from tests.test_ood import foreign as images
from tests.test_views import add_images
from tests.tiny_root import SIZE, build, phantom_png

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"), shipped=True)


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with browser.serve(root) as found:
        yield found


@pytest.fixture(scope="module")
def photographs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A photograph of each class, new to a model that was trained on others of HAM10000 and now lies beside those of drawings."""
    if not tiny_ham.ARCHIVE.exists():
        pytest.skip("needs ../shared/data")
    return tiny_ham.add(root, tmp_path_factory.mktemp("training"))


def foreign() -> dict[str, bytes]:
    """A photograph of a temple, noise, and what a chest X-ray looks like."""
    temple = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(temple, "JPEG")
    return {"temple.jpg": temple.getvalue(), "noise.png": encode_png(images("noise")[0]), "chest X-ray.png": encode_png(images("chest X-ray")[0])}


def refused(text: str, names: Iterable[str]) -> list[str]:
    """Which of the files `names` the page says that the model may not speak on."""
    return [name for name in names if f"{name} is not read: the model may not speak on it: " in text]


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
    assert browser.nameless(page) == []
    answer, picture = page.get_by_role("heading", name="Dermatofibroma").first, page.get_by_alt_text("The uploaded image").first
    # Both at once: the page may still be moving. On a telephone the answer stands before the picture.
    below = page.evaluate(
        "([one, other]) => one.getBoundingClientRect().top - other.getBoundingClientRect().top", [answer.element_handle(), picture.element_handle()]
    )
    assert width > 380 or below < 0
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


def test_a_dicom_file_is_read_and_foreign_images_beside_it_get_a_line_each(address: str, chromium: Browser) -> None:
    dicom = written(dataset(read(phantom_png(), SIZE), "RGB"))
    others = foreign()
    page = browser.open_page(chromium, address)
    browser.read_images(page, {"lesion.dcm": dicom, **others})
    text = page.inner_text("body")
    assert refused(text, ["lesion.dcm", *others]) == list(others) and "What the model says" in text and wording.PHANTOM in text


def test_a_model_of_photographs_speaks_on_a_photograph_and_on_nothing_else(address: str, photographs: dict[str, bytes], chromium: Browser) -> None:
    page = browser.open_page(chromium, address)
    browser.choose(page, "Data set", tiny_ham.NAME)
    page.get_by_text("HAM10000 dermoscopy").first.wait_for()
    others = foreign()
    browser.read_images(page, others)
    text = page.inner_text("body")
    assert refused(text, others) == list(others) and "What the model says" not in text
    browser.read_images(page, {"lesion.jpg": photographs["nv"]}, len(others))
    text = page.inner_text("body")
    assert refused(text, [*others, "lesion.jpg"]) == list(others) and "What the model says" in text
    assert "of 1,000" in text and "Dermatofibroma" in text and wording.NOTICE in text and wording.PHANTOM not in text


@pytest.mark.parametrize("width", [1280, 380])
def test_every_view_fits_the_screen_and_names_what_is_on_it(root: Path, address: str, chromium: Browser, width: int) -> None:
    add_images(root)
    write_text(root / "reports/phantom/data.md", "# Drawings: the data\n\n| class | images |\n|---|---|\n| df | 1 |\n")
    page = browser.open_page(chromium, address, width)
    for view, heading in (
        ("compare", "Did synthesis help?"),
        ("gallery", "Synthetic images"),
        ("data", "Drawings: the data"),
        ("card", "Model card"),
    ):
        page.goto(f"{address}/{view}")
        page.get_by_role("heading", name=heading).first.wait_for()
        page.wait_for_load_state("networkidle")
        assert "Traceback" not in page.inner_text("body") and browser.nameless(page) == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
