"""What the suite shares: one run of the smoke preset."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.repository import checkout, command


@pytest.fixture(scope="session")
def smoke_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree in which `make reproduce PRESET=smoke` has run once; its output is in ../smoke.log. Copy it, never change it.

    SMOKE_REPO in the environment names a finished one to use again, while a single test is written.
    """
    if "SMOKE_REPO" in os.environ:
        return Path(os.environ["SMOKE_REPO"])
    folder = checkout(tmp_path_factory.mktemp("smoke") / "repository")
    done = command(folder, "-m", "stages.runtime.launch", "smoke")
    (folder.parent / "smoke.log").write_text(done.stdout)
    return folder
