"""Images drawn for a person at the page: `stages.sample` in a process of its own, which can be watched and ended."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
import weakref
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import NamedTuple

import numpy as np
from PIL import Image

from app import artifacts, marking
from stages.dataset.card import Card
from stages.runtime.errors import LawError, UserError

MOST = 32  # images at once
CODE = Path(__file__).parents[1]
LIST, LOG = "samples.csv", "log.txt"
UNJUDGED = "not judged"  # as in stages.sample, which imports torch
README = f"""\
AI made every image here. None is a picture of a patient, none is fit for a diagnosis.

look/   to look at and to pass on: enlarged, with a band below that says "{marking.TEXT}"
train/  to train on: as they were drawn, pixel for pixel, and the list of them (samples.csv). That AI made them stands inside these
        files alone (IPTC digital source type), where most viewers do not show it: do not pass them on as pictures.
"""
_LIVE: weakref.WeakSet[Drawing] = weakref.WeakSet()
_GATE = Lock()


class Drawn(NamedTuple):
    """A decided image: the marked PNG as `stages.sample` wrote it (None: no try gave anything to see), tries, the judge's probability for what
    was asked for (0..1, None: the text names no diagnosis), and why it was not accepted ("": it was; UNJUDGED: nobody looked)."""

    image: bytes | None
    tries: int
    probability: float | None
    reason: str


def command(place: artifacts.Place, text: str, count: int, seed: int, out: Path) -> list[str]:
    """What draws `count` images of `text` into `out`, to be run in the repository's root."""
    options = ["--n", str(count), "--seed", str(seed), "--dataset", place.name]
    return [sys.executable, "-P", "-m", "stages.sample", *options, "--", text, str(out)]


class Drawing:
    """A drawing under way, or what is left of it: its process and its folder end with this object, or with the server."""

    def __init__(self, place: artifacts.Place, text: str, count: int, seed: int) -> None:
        self.text, self.count, self.stopped = text, count, False
        self._began: float | None = None
        folder = TemporaryDirectory(prefix="rarelens-")
        self._log, self._out = Path(folder.name) / LOG, Path(folder.name) / "images"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command(place, text, count, seed, self._out), cwd=place.root, env=os.environ | {"PYTHONPATH": str(CODE)},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self._finalizer = weakref.finalize(self, _end, self._process, folder)

    @property
    def pid(self) -> int:
        """The process that draws, or drew."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still draws. Ask before `pictures`: what it finds after the end is complete."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the work; what is decided stays. Files are written whole or not at all, so that nothing is half there."""
        self.stopped = self.running
        self._process.kill()
        self._process.wait()

    def pictures(self) -> list[Drawn] | None:
        """What is decided so far, in order; None while the generator is being loaded."""
        if not (self._out / LIST).exists():
            return None
        self._began = self._began or time.monotonic()
        return [
            Drawn(
                (self._out / row["file"]).read_bytes() if row["file"] else None,
                int(row["attempts"]),
                float(row["judge_probability"]) if row["judge_probability"] else None,
                row["reason"],
            )
            for row in csv.DictReader((self._out / LIST).read_text().splitlines())
        ]

    def seconds_left(self, decided: int) -> float | None:
        """About how long the rest takes, by how long the `decided` ones took; None before there is one."""
        if not decided or self._began is None:
            return None
        return (time.monotonic() - self._began) / decided * (self.count - decided)

    def warnings(self) -> list[str]:
        """What it warned of: words that it does not know, a text that no judge can check."""
        return [line.removeprefix("warning: ") for line in self._said() if line.startswith("warning: ")]

    def error(self) -> str:
        """Why it ended without doing its work, in one line; empty while it runs, and where it did or was stopped."""
        if self.running or self.stopped or not self._process.returncode:
            return ""
        said = self._said()
        return next(
            (line.removeprefix("error: ") for line in said if line.startswith("error: ")), f"the drawing broke off: {' '.join(said[-1:])[:300]}"
        )

    def archive(self) -> bytes:
        """Every image as one ZIP file, to look at (the picture itself says that AI made it) and for training (as drawn, with the list of them);
        the same images give the same bytes.
        """
        files = {"README.txt": README.encode()}
        for path in sorted(self._out.glob("*.png")):
            with Image.open(path) as picture:
                files[f"look/AI-generated-{path.name}"] = marking.to_look_at(np.asarray(picture.convert("RGB")))
        for path in sorted([*self._out.glob("[0-9]*.png"), *self._out.glob(LIST)]):  # not the contact sheet
            files[f"train/{path.name}"] = path.read_bytes()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return out.getvalue()

    def _said(self) -> list[str]:
        return [line.strip() for line in self._log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]


def _end(process: subprocess.Popen[bytes], folder: TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    folder.cleanup()


def rare(place: artifacts.Place, card: Card) -> dict[str, bool]:
    """The rare diseases, and whether they were learned; of a data set that params.yaml does not name, whatever was learned is rare (`stages.sample`)."""
    named = artifacts.default_params(place.root).rare if place.default else []
    learned = {disease for disease in card.class_names if (place.models / "lora" / disease / "lora.json").exists()}
    return {disease: disease in learned for disease in card.class_names if disease in learned or disease in named}


def require(place: artifacts.Place, card: Card) -> None:
    """Raises `UserError` when what draws and judges is missing, `LawError` when it is not what the lock records; each names the command that mends it."""
    parts = [place.models / "base", place.models / "judge"]
    if missing := [path.relative_to(place.root).as_posix() for path in parts if not (path / f"{path.name}.json").exists()]:
        fetch = " or fetch it with `dvc pull`" if place.default else ""
        raise UserError(f"The generator of {place.name} is not here ({', '.join(missing)}). Build it with `{place.command}`{fetch}.")
    if changed := artifacts.changed(place, *parts, *(place.models / "lora" / disease for disease, learned in rare(place, card).items() if learned)):
        raise LawError(f"Not as {place.lock.relative_to(place.root).as_posix()} records it: {', '.join(changed)}. {place.remedy}")


def start(place: artifacts.Place, card: Card, text: str, count: int, seed: int) -> Drawing:
    """Begin to draw `count` (1..MOST) images. Raises as `require` does, and `UserError` while another drawing runs on this server."""
    if not text.strip():
        raise UserError("The text is empty: say what to draw.")
    require(place, card)
    with _GATE:
        if any(drawing.running for drawing in _LIVE):
            raise UserError("Another drawing is under way on this server. Wait until it is done, or stop it where it was begun.")
        drawing = Drawing(place, text.strip(), count, seed)
        _LIVE.add(drawing)
    return drawing
