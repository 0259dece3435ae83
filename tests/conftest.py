"""What the suite shares: one run of the smoke preset, by all of its processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# Two processes share two cores: threads that wait must not spin. Set before torch is loaded, here and in what the tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from playwright.sync_api import Browser

from tests import browser
from tests.repository import checkout, command


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that one process has it while the other does the rest (`--no-loadscope-reorder` keeps xdist to this order)."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")


@pytest.fixture(scope="session")
def smoke_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree in which `make reproduce PRESET=smoke` has run once; its output is in ../smoke.log. Copy it, never change it.

    SMOKE_REPO in the environment names a finished one to use again, while a single test is written.
    """
    if "SMOKE_REPO" in os.environ:
        return Path(os.environ["SMOKE_REPO"])
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "smoke"
    folder, log = shared / "repository", shared / "smoke.log"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            checkout(folder)
            log.write_text(command(folder, "-m", "stages.runtime.launch", "smoke", check=False).stdout)
    assert (folder / "reports/smoke/verdict.json").exists(), f"the smoke run failed:\n{log.read_text()[-6000:]}"
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium of the module's own; for tests that skip without one."""
    with browser.browser() as opened:
        yield opened
