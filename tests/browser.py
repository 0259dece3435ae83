"""The page in a headless Chromium, as a reader meets it: `serve` runs it, `browser` opens it, `read_image` uploads and waits for the result."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, sync_playwright

REPOSITORY = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium")
WAIT = 300_000  # ms; on a busy machine importing torch takes minutes


@contextmanager
def serve(root: Path, script: str | Path = "app/main.py", options: tuple[str, ...] = ()) -> Iterator[str]:
    """The page (or another Streamlit `script`) on the artifacts under `root`, on a free port, with more `options`; yields its address and ends the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port), "--server.headless", "true", *options]
    server = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"RARELENS_ROOT": str(root)}, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(WAIT // 500):
            if server.poll() is not None:
                raise RuntimeError(f"streamlit ended with status {server.returncode}")
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it listens to signals only between two imports
            server.kill()


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a sandbox (tests run as root in containers) and without calls to its maker."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        try:
            yield opened
        finally:
            opened.close()


def open_page(opened: Browser | BrowserContext, address: str, width: int = 1280, height: int = 900) -> Page:
    """A page of `width` x `height` px, waited for until its title is there: of a reader of its own, or a further tab of a context (one cache)."""
    context = opened.new_context() if isinstance(opened, Browser) else opened
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.get_by_role("heading", level=1).first.wait_for()
    return page


def choose(page: Page, label: str, option: str) -> None:
    """Choose from a list of the sidebar."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()


def read_images(page: Page, files: Mapping[str, bytes], before: int = 0) -> None:
    """Upload images by their names, beside `before` that lie there already, and wait until the page has read all of them."""
    given: list[FilePayload] = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files.items()]
    page.locator("input[type=file]").set_input_files(given)
    count = before + len(files)
    page.get_by_text("this image (sha256)" if count == 1 else f"image {count} (sha256)").wait_for()  # the last line of the page


def read_image(page: Page, data: bytes, name: str = "lesion.png") -> None:
    """Upload an image and wait for its result."""
    read_images(page, {name: data})


def nameless(page: Page) -> list[str]:
    """The controls that a screen reader would not name, and the images without a text in their place, as HTML."""
    found: list[str] = page.evaluate(
        """() => {
            const text = id => document.getElementById(id)?.textContent ?? "";
            const named = e => e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") ?? "").split(" ").map(text).join("").trim()
                || [...(e.labels ?? [])].map(l => l.textContent).join("").trim() || e.title || (e.tagName === "INPUT" ? "" : e.textContent.trim());
            const controls = "input, textarea, select, button, a[href], [role=combobox], [role=slider], [role=radiogroup]";
            return [...document.querySelectorAll(controls)].filter(e => e.checkVisibility() && !named(e))
                .concat([...document.querySelectorAll("img")].filter(e => !e.alt)).map(e => e.outerHTML.slice(0, 200))
        }"""
    )
    return found


def settle(page: Page) -> None:
    """Wait until every picture and table of the page is drawn; call it once the page's last element is there."""
    page.wait_for_function(
        """!document.querySelector("[data-testid=stSkeleton]") && [...document.querySelectorAll("[data-testid=stImage]")].every(
            box => [...box.querySelectorAll("img")].some(image => image.complete && image.naturalWidth))"""
    )
    page.wait_for_timeout(1500)  # fonts and fading
