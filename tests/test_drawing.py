"""Drawing at the page: what it needs, progress, the stop that stops, what can be taken away; with a stand-in for the generator."""

from __future__ import annotations

import gc
import io
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from streamlit.testing.v1 import AppTest

from app import drawing, marking, wording_synthetic
from app.artifacts import Place
from app.drawing import Drawing
from stages import sample
from stages.dataset.card import read_card
from stages.imaging.watermark import is_marked
from stages.runtime.errors import UserError
from stages.runtime.files import write_json, write_text
from tests.test_app import open_page, words
from tests.tiny_root import REPOSITORY, write_lock

#: Writes as `stages.sample` does: OUT COUNT BEHAVIOUR, which is whole, unjudged, hang (after the first image) or fail.
STAND_IN = """
import sys, time
from pathlib import Path
import numpy as np
from stages.imaging.watermark import encode_marked
out, count, behaviour = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if behaviour == "fail":
    sys.exit("error: the text names 2 classes: name one")
print("warning: the base does not know 'zebra' as words, so they change little", file=sys.stderr, flush=True)
out.mkdir()
if behaviour == "unjudged":
    (out / "0000.png").write_bytes(encode_marked(np.zeros((8, 8, 3), np.uint8)))
    (out / "samples.csv").write_text("file,seed,attempts,judge_probability,accepted,reason\\n,3,4,,False,not finite\\n0000.png,1,1,,False,not judged\\n")
    sys.exit()
rows = ["file,seed,attempts,judge_probability,accepted,reason", "0000.png,1,1,0.900000,True,", "0001.png,2,4,0.100000,False,judge", ",3,4,,False,not finite"]
for k in range(3 if behaviour == "whole" else 1):
    if k < 2:
        (out / f"{k:04d}.png").write_bytes(encode_marked(np.full((8, 8, 3), 99 * k, np.uint8)))
    (out / "partial").write_text("\\n".join(rows[: k + 2]) + "\\n")
    (out / "partial").rename(out / "samples.csv")
time.sleep(600 if behaviour == "hang" else 0)
"""
GENERATOR = ("models/phantom/base", "models/phantom/judge", "models/phantom/lora/df")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Card, params and a generator of empty files, which the lock records."""
    (tmp_path / "data").mkdir()
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copy(REPOSITORY / "data/phantom.yaml", tmp_path / "data")
    for folder in GENERATOR:
        write_json(tmp_path / folder / f"{'lora' if 'lora' in folder else Path(folder).name}.json", {})
    write_lock(tmp_path, "dvc.lock", *GENERATOR)
    return tmp_path


def behave(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    """Put the stand-in in the place of the generator."""
    monkeypatch.setattr(drawing, "command", lambda place, text, count, seed, out: [sys.executable, "-c", STAND_IN, str(out), str(count), behaviour])


def until(page: AppTest, done: int) -> Drawing:
    """The drawing of `page`, once `done` images are decided or it has ended."""
    own: Drawing = page.session_state["drawing phantom"]
    limit = time.monotonic() + 120
    while own.running and len(own.pictures() or ()) < done:
        assert time.monotonic() < limit, "the stand-in did not get that far"
        time.sleep(0.05)
    return own


def order(page: AppTest, count: int = 3) -> AppTest:
    page.number_input[0].set_value(count)
    next(button for button in page.button if button.label == "Draw").click()
    return page.run()


def test_what_nobody_judged_is_not_called_accepted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "unjudged")
    page = open_page(root, monkeypatch, "generate")
    until(order(page, 2), 2)
    page.run()
    assert not page.exception and not page.error
    assert [text.value for text in page.subheader] == ["Drawn, not judged: 1", "Not accepted after the last try: 1"]


def test_images_are_marked_named_and_taken_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "whole")
    page = open_page(root, monkeypatch, "generate")
    assert not page.exception and page.text_input[0].value == "a dermoscopic image of dermatofibroma"
    assert "Not learned yet, so it cannot be drawn: vascular lesion." in words(page)
    own = until(order(page), 4)
    page.run()
    assert not page.exception and not page.error and wording_synthetic.NO_PATIENT in words(page)
    assert [text.value for text in page.subheader] == ["Accepted: 1", "Not accepted after the last try: 2"]
    assert any("does not know" in text.value and "zebra" in text.value for text in page.warning)
    with zipfile.ZipFile(io.BytesIO(own.archive())) as archive:
        names = [f"look/AI-generated-000{k}.png" for k in range(2)] + [f"train/000{k}.png" for k in range(2)]
        assert archive.namelist() == ["README.txt", *names, "train/samples.csv"]
        assert all(is_marked(archive.read(name)) for name in names)
        assert len(pd.read_csv(io.BytesIO(archive.read("train/samples.csv")))) == 3
        drawn = [p.image for p in own.pictures() or [] if p.image is not None]
        assert [archive.read(name) for name in names[2:]] == drawn  # what trains has the pixels as they were drawn
        for name, image in zip(names, drawn, strict=False):
            assert_banded(decode_png(archive.read(name)), decode_png(image))
        assert b"AI made every image here" in archive.read("README.txt")
    assert [button.label for button in page.button] == ["Draw"] and len(page.get("download_button")) == 1


def test_stop_ends_the_process_and_keeps_what_was_drawn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "hang")
    page = order(open_page(root, monkeypatch, "generate"))
    own = until(page, 1)
    page.run()
    assert "1 of 3 done" in page.get("progress")[0].proto.text
    draw, stop = page.button
    assert draw.disabled and stop.label == "Stop drawing"
    other = order(open_page(root, monkeypatch, "generate"))
    assert "Another drawing is under way" in other.error[0].value
    stop.click()
    page.run()
    with pytest.raises(ProcessLookupError):
        os.kill(own.pid, 0)
    assert not page.exception and "Stopped: 1 of 3 done." in [text.value for text in page.info]
    assert [text.value for text in page.subheader] == ["Accepted: 1"] and len(page.get("download_button")) == 1


def test_what_cannot_be_drawn_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "fail")
    page = order(open_page(root, monkeypatch, "generate"))
    until(page, 1)
    page.run()
    assert not page.exception and len(page.error) == 1 and "name one" in page.error[0].value


def test_a_generator_that_is_missing_or_changed_names_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(root / "models/phantom/judge/judge.json", "{ }")
    page = open_page(root, monkeypatch, "generate")
    assert not page.exception and "models/phantom/judge" in page.error[0].value and "dvc checkout" in page.error[0].value and not page.text_input
    shutil.rmtree(root / "models/phantom/judge")
    page = open_page(root, monkeypatch, "generate")
    assert not page.exception and "not here (models/phantom/judge)" in page.error[0].value and "make reproduce" in page.error[0].value


def test_process_and_files_end_with_the_session(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "hang")
    own = drawing.start(Place(root, "phantom", True), read_card(root / "data/phantom.yaml"), "a melanoma", 1, 0)
    pid, folder = own.pid, own._log.parent
    assert folder.exists()
    del own
    gc.collect()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def decode_png(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def assert_banded(shown: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """`shown` is `image`, of one colour, enlarged, above a dark band with words that fill half of its width."""
    side = shown.shape[1]
    assert side >= 256 and (shown[:side] == image[0, 0]).all()
    band = shown[side:].astype(int).mean(-1)
    written = np.flatnonzero((band > 200).any(0))
    assert len(band) >= side // 10 and band.min() < 40 and written.max() - written.min() > side / 3 and (band < 60).mean() > 0.5


@given(st.integers(40, 400), st.integers(40, 400))
@settings(max_examples=15, deadline=None)
def test_the_band_leaves_the_image_as_it_is(height: int, width: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    shown = marking.banded(pixels)
    assert (shown[:height] == pixels).all() and shown.shape[1] == width and shown.shape[0] >= height + marking.LOW
    assert len(np.unique(shown[height:])) > 2  # words on the band


def test_an_empty_text_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        drawing.start(Place(root, "phantom", True), read_card(root / "data/phantom.yaml"), " ", 1, 0)


def test_what_is_said_of_an_image() -> None:
    assert wording_synthetic.drawn(0.93, 1, "") == "AI-generated: judge 93%"
    assert wording_synthetic.drawn(0.2, 4, "judge") == "AI-generated: the judge does not see what was asked for, judge 20%, try 4"
    assert drawing.UNJUDGED == sample.UNJUDGED
    assert wording_synthetic.drawn(None, 1, sample.UNJUDGED) == "AI-generated: not judged" and wording_synthetic.reason("other") == "other"
    assert [wording_synthetic.duration(s) for s in (4, 41, 200)] == ["a few seconds", "40 seconds", "3 minutes"]
