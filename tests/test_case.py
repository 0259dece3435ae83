"""The files of a patient on the page: several are one case, each is read once, and the next patient begins without them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import frame, uploads, wording
from stages.classifier.prediction import open_model, predict
from stages.classifier.reading import Seen, read
from tests.test_app import caught, noise, open_page, upload, words
from tests.tiny_root import SIZE, build, phantom_png


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


def test_a_click_reads_no_file_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_before: list[bytes] = []

    def counted(data: bytes, *sizes: int) -> Seen:
        read_before.append(data)
        return Seen([read(data, size) for size in sizes], 1)

    monkeypatch.setattr(uploads, "read", counted)
    page = upload(open_page(root, monkeypatch), phantom_png())
    page.slider[0].set_value(30)
    assert not page.run().exception and len(read_before) == 1
    upload(page, phantom_png(), phantom_png("vasc"))
    assert len(read_before) == 2, "the new one alone"


def test_several_files_are_one_case(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), phantom_png("df"), phantom_png("vasc"), noise())
    assert not page.exception and len(page.error) == 1  # the noise is left out, and said so
    predictor = open_model(root / "models/phantom/combined")
    p = [predict(predictor, read(phantom_png(label), SIZE)[None])[0].probabilities["df"] for label in ("df", "vasc")]
    shown = page.table[0].value.set_index("Diagnosis").iloc[:, 0]
    assert shown["Dermatofibroma"] == wording.of_1000(float(np.mean(p))) and "One case of 2 views" in words(page)
    view = next(box for box in page.selectbox if box.label == "Of the view")
    assert len(view.options) == 2 and not view.set_value(1).run().exception
    alone = [predict(predictor, read(phantom_png(label), SIZE)[None])[0].predicted for label in ("df", "vasc")]
    assert any("its views disagree" in text.value for text in page.warning) == (alone[0] != alone[1])
    twice = upload(page, phantom_png("df"), phantom_png("df"))
    assert any("more than once" in text.value for text in twice.warning) and "One case of" not in words(twice)
    refused = upload(page, *[phantom_png()] * 9)
    assert "at most 8" in refused.error[0].value and not refused.table


def test_of_a_file_with_several_frames_it_is_said_that_the_first_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = caught(monkeypatch)
    first, second = (Image.open(io.BytesIO(phantom_png(label))) for label in ("df", "vasc"))
    out = io.BytesIO()
    first.save(out, "TIFF", save_all=True, append_images=[second])
    page = upload(open_page(root, monkeypatch), out.getvalue(), name="scan.tif")
    told = "only the first of 2 frames is read"
    assert not page.exception and [text.value for text in page.warning if "frames" in text.value] == [f"{wording.plain('scan.tif')}: {told}."]
    assert f"of scan.tif, {told}" in reports[0]["warnings"]


def test_the_next_patient_begins_with_no_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), phantom_png())
    assert any("What the model says" in header.value for header in page.header)
    (button,) = (one for one in page.button if one.label.startswith("Next patient"))
    button.click().run()
    assert not page.exception and not page.file_uploader[0].value and not any("What the model says" in header.value for header in page.header)


def test_pictures_of_a_patient_are_forgotten_when_another_view_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = upload(open_page(root, monkeypatch), phantom_png())
    assert frame.UPLOADED in page.session_state
    page.switch_page("views/card.py").run()
    assert not page.exception and frame.UPLOADED not in page.session_state
