"""The blinded sheet: balanced, shuffled, and scored by `python -m stages.rate`."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from stages import rate
from stages.metrics.rating import KEY, choose
from stages.runtime.errors import UserError

REAL = {"df": [f"r{i}" for i in range(30)], "vasc": [f"v{i}" for i in range(30)]}
SYNTHETIC = {"df": [f"syn-df{i}" for i in range(30)], "vasc": [f"syn-vasc{i}" for i in range(9)]}


def test_half_of_the_sheet_is_real_in_every_class() -> None:
    key = choose(REAL, SYNTHETIC, 50, seed=0)
    assert key.groupby(["label", "kind"]).size().to_dict() == {
        ("df", "real"): 13, ("df", "synthetic"): 13, ("vasc", "real"): 9, ("vasc", "synthetic"): 9
    }  # fmt: skip
    assert list(key["number"]) == list(range(1, 45))
    assert key["id"].is_unique
    assert key.equals(choose(REAL, SYNTHETIC, 50, seed=0))
    assert not key.equals(choose(REAL, SYNTHETIC, 50, seed=1))
    assert list(key["kind"]) != sorted(key["kind"])


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """An audit folder with a key of 40 images."""
    choose(REAL, REAL, 40, seed=0).to_csv(tmp_path / KEY, index=False)
    return tmp_path


def scored(audit: Path, form: pd.DataFrame | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the command on a filled `form`."""
    path = audit / "filled.csv"
    path.write_text(form if isinstance(form, str) else form.to_csv(index=False))
    monkeypatch.setattr(sys, "argv", ["rate", str(path), str(audit)])
    rate.main()


def test_a_filled_form_is_scored(audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    key = pd.read_csv(audit / KEY)
    form = key[["number"]].assign(answer=key["kind"].str.title() + " ")
    form.loc[:3, "answer"] = ""
    scored(audit, form, monkeypatch)
    said = capsys.readouterr().out
    assert "right answers: 100% of 36 (95% 90% to 100%)" in said
    assert "told apart better than by guessing" in said and "4 of 40 images have no answer" in said
    scored(audit, key[["number"]].assign(answer="synthetic"), monkeypatch)
    said = capsys.readouterr().out
    assert "right answers: 50% of 40" in said and "no evidence of telling them apart" in said
    assert "real images that were called real: 0% of 20" in said


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ("number,answer\n1,maybe\n", "number 1 says 'maybe'"),
        ("number,answer\n99,real\n", "number '99' is not on the sheet"),
        ("number,answer\n1,real\n1,real\n", "number 1 stands twice"),
        ("number,answer\n1,\n", "holds no answer yet"),
        ("a,b\n1,2\n", "needs the columns number,answer"),
        ("", "cannot be read as a form"),
    ],
)
def test_a_form_that_cannot_be_scored_says_why(form: str, complaint: str, audit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=complaint):
        scored(audit, form, monkeypatch)


def test_a_folder_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="run `dvc repro audit` first"):
        scored(tmp_path, "number,answer\n1,real\n", monkeypatch)
