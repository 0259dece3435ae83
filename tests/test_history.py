"""The history: off unless a setting asks for it; no picture in it; a case can be erased from the file itself."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.history import History, Reading, as_csv
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from tests.test_app import open_page, upload, words
from tests.tiny_root import build, phantom_png, write_settings

READING = Reading(
    who="anne@clinic.example", case="case 7", dataset="phantom", regime="combined", model="m" * 32, data="d" * 64, images="i" * 64, result="{}"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


def called(elements: Any, label: str) -> Any:
    """The one of a page's elements that has this label."""
    (found,) = [one for one in elements if one.label == label]
    return found


def test_a_reading_is_kept_with_its_opinion(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite")
    number = history.add(READING)
    history.add(replace(READING, case="case 8"))
    assert history.judge(number, "B-12", "disagree", "a scar")
    latest, first = History(tmp_path / "h.sqlite").rows()
    assert (latest.case, latest.opinion) == ("case 8", "")
    assert (first.who, first.case, first.opinion, first.comment) == (READING.who, "B-12", "disagree", "a scar") and first.at.endswith("+00:00")
    assert (first.model, first.data, first.images) == (READING.model, READING.data, READING.images)
    assert (tmp_path / "h.sqlite").stat().st_mode & 0o077 == 0  # its owner alone may read it


def test_an_erased_case_is_gone_from_the_file(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite")
    numbers = [history.add(replace(READING, case=name)) for name in ("erase me", "erase me", "stays")]
    assert history.judge(numbers[0], "erase me", "agree", "a word to forget")
    assert b"a word to forget" in (tmp_path / "h.sqlite").read_bytes()
    assert history.erase("erase me") == 2 and [row.case for row in history.rows()] == ["stays"]
    left = (tmp_path / "h.sqlite").read_bytes()
    assert b"a word to forget" not in left and b"erase me" not in left and b"stays" in left
    assert not history.judge(numbers[0], "erase me", "agree", "") and history.erase("erase me") == 0


def test_twenty_sessions_write_at_once(tmp_path: Path) -> None:
    def session(k: int) -> bool:
        history = History(tmp_path / "h.sqlite")
        return history.judge(history.add(replace(READING, case=str(k))), str(k), "agree", f"by {k}")

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(session, range(20)))
    assert {(row.case, row.comment) for row in History(tmp_path / "h.sqlite").rows()} == {(str(k), f"by {k}") for k in range(20)}


def test_the_export_reads_back_and_holds_no_formula(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite")
    history.judge(history.add(READING), "=1+1", "agree", 'two\nlines, "quoted"')
    (row,) = csv.DictReader(io.StringIO(as_csv(history.rows())))
    assert row["case"] == "'=1+1" and row["comment"] == 'two\nlines, "quoted"' and row["model"] == READING.model


def test_a_file_that_is_no_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("these are my notes, and no database at all" * 50)
    for path in (tmp_path / "other.txt", tmp_path / "missing" / "h.sqlite"):
        with pytest.raises(UserError, match=f"{path.name}.*history.file"):
            History(path)


def test_without_the_setting_nothing_is_kept_and_no_view_shown(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RARELENS_SETTINGS", str(write_settings(tmp_path / "s.toml")))
    page = upload(open_page(root, monkeypatch), phantom_png())
    assert not page.exception and "Your assessment" not in words(page) and not list(root.rglob("*.sqlite"))
    with pytest.raises(ValueError):
        page.switch_page("views/history.py")


def test_the_page_keeps_a_reading_once_and_the_opinion_on_it(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, data = tmp_path / "h.sqlite", phantom_png()
    monkeypatch.setenv("RARELENS_SETTINGS", str(write_settings(tmp_path / "s.toml", history=path)))
    page = upload(open_page(root, monkeypatch), data, name="Anna Muster.png")
    assert not page.exception and len(page.run().text_area) == 1
    (row,) = History(path).rows()
    assert (row.dataset, row.regime, row.opinion) == ("phantom", "combined", "") and row.case == row.images[:12]
    assert json.loads(row.result)["predicted"] and row.data == read_json(root / "models/phantom/combined/model.json")["mix_sha256"]
    page.text_input[0].set_value("B-12")
    called(page.radio, "Do you agree with the model?").set_value("disagree")
    page.text_area[0].set_value("a scar")
    called(page.button, "Keep my assessment").click()
    assert not page.run().exception and page.success
    (row,) = History(path).rows()
    assert (row.case, row.opinion, row.comment) == ("B-12", "disagree", "a scar")
    assert b"Anna" not in path.read_bytes() and data[60:90] not in path.read_bytes()

    page.switch_page("views/history.py").run()
    assert not page.exception and page.dataframe[0].value["Case"].tolist() == ["B-12"]
    assert called(page.download_button, "Export 1 as CSV")
    called(page.selectbox, "Case").set_value("B-12")
    called(page.button, "Erase").click().run()
    assert len(History(path).rows()) == 1  # not before the box is ticked
    called(page.selectbox, "Case").set_value("B-12")
    page.checkbox[0].check()
    called(page.button, "Erase").click().run()
    assert not page.exception and not History(path).rows() and "Nothing has been read" in page.info[0].value
