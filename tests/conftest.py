"""What the suite shares: one run of the smoke preset."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository import checkout, command


@pytest.fixture(scope="session")
def smoke_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree in which `make reproduce PRESET=smoke` has run once; its output is in ../smoke.log. Do not change it: copy it."""
    folder = checkout(tmp_path_factory.mktemp("smoke") / "repository")
    done = command(folder, "-m", "stages.runtime.launch", "smoke")
    (folder.parent / "smoke.log").write_text(done.stdout)
    return folder
