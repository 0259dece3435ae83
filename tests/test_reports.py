"""What stands in reports/ is of one run: the tables of a verdict are the figures that DVC and the page read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.runtime.files import read_json
from tests.repository import ROOT

VERDICTS = sorted(ROOT.glob("reports/*/verdict.md"))
COLUMNS = {"rare F1": "rare_f1", "rare AP": "rare_ap", "macro F1": "macro_f1", "accuracy": "accuracy", "ECE": "ece"}


@pytest.mark.parametrize("path", VERDICTS, ids=[path.parent.name for path in VERDICTS])
def test_the_table_of_regimes_is_that_of_the_metrics(path: Path) -> None:
    head, _, *rows = re.search(r"## The regimes\n\n((?:\|.*\n)+)", path.read_text())[1].splitlines()  # type: ignore[index]
    names = [cell.strip() for cell in head.strip("|").split("|")][1:]
    told = {cells[0]: cells[1:] for row in rows if (cells := [cell.strip() for cell in row.strip("|").split("|")])}
    found = {p.stem: read_json(p) for p in sorted((path.parent / "metrics").glob("*.json"))}
    assert names == list(COLUMNS) and set(told) == set(found)
    for regime, cells in told.items():
        assert cells == [f"{found[regime][COLUMNS[name]]:.3f}" for name in names], regime
