"""Bars say how much is to be done wherever that can be known."""

from __future__ import annotations

import pytest

from stages.runtime.progress import progress


def test_a_bar_counts_to_the_length_of_its_items(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], "reading", "file")) == [1, 2, 3]
    assert "3/3" in capfd.readouterr().err
    assert list(progress(iter([1, 2]), "reading", "file", total=2)) == [1, 2]
    assert "2/2" in capfd.readouterr().err
