"""Limits on what is taken from outside: bytes, files, pixels, and how many are opened at once."""

from __future__ import annotations

import io
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app import uploads
from stages.classifier.reading import Seen
from stages.imaging.decode import Refused
from tests.repository import ROOT


def test_too_many_or_too_large_files_are_no_case() -> None:
    assert uploads.too_much([uploads.MAX_BYTES] * 2) == uploads.too_much([1] * uploads.MAX_FILES) == ""
    assert "at most 8" in uploads.too_much([1] * 9) and "at most 100 MB" in uploads.too_much([uploads.MAX_BYTES] * 3)


def test_a_file_over_the_limit_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 9)
    monkeypatch.setattr(uploads, "read_guarded", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(Refused, match="over"):
        uploads.read(b"0123456789", 64)


def test_the_server_has_the_same_limit() -> None:
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["maxUploadSize"] * 2**20 == uploads.MAX_BYTES


def test_a_small_file_of_too_many_pixels_is_refused() -> None:
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    assert len(out.getvalue()) < 200_000
    with pytest.raises(Refused, match="pixels"):
        uploads.read(out.getvalue(), 64)


def test_twenty_at_once_take_turns_and_each_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mutex, inside, most = threading.Lock(), 0, 0

    def reader(data: bytes, *_: int) -> Seen:
        nonlocal inside, most
        with mutex:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with mutex:
            inside -= 1
        if data == b"7":
            raise Refused("broken")  # must give its turn back
        return Seen([np.array(int(data), np.uint8)], 1)

    monkeypatch.setattr(uploads, "read_guarded", reader)

    def ask(k: int) -> int:
        try:
            return int(uploads.read(str(k).encode(), 64).views[0])
        except Refused:
            return -1

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert found == [-1 if k == 7 else k for k in range(20)] and 1 < most <= uploads.TURNS
