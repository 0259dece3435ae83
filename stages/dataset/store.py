"""Where refined images wait on disk until all are there: finished files survive an interruption, and memory stays flat."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.imaging import refining
from stages.imaging.duplicates import Thumbs
from stages.imaging.refining import THUMB, Refined
from stages.runtime.errors import UserError
from stages.runtime.names import on_disk

SAVE_EVERY = 1.0  # seconds of work that an interruption may cost
AT_ONCE = 1000  # rows of facts held as Python's own values, which take more room than a table's
LIBRARIES = (
    "numpy",
    "pillow",
    "pydicom",
    "pyjpegls",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
    "scipy",
)  # whose versions may change a pixel or a hash
LIGHT = (
    "file", "frame", "frames", "sha256", "width", "height", "mode", "format", "file_bytes", "recoded_bytes", "burned_in_text", "unusable", "pixels",
)  # fmt: skip
TABLES = """
CREATE TABLE IF NOT EXISTS files (file TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT, again INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    key INTEGER PRIMARY KEY, file TEXT NOT NULL, frame INTEGER NOT NULL, frames INTEGER NOT NULL, sha256 TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, mode TEXT NOT NULL, format TEXT NOT NULL, file_bytes INTEGER NOT NULL,
    recoded_bytes INTEGER NOT NULL, burned_in_text INTEGER NOT NULL, unusable TEXT NOT NULL, pixels TEXT NOT NULL, hashes BLOB NOT NULL,
    thumb BLOB NOT NULL, image BLOB NOT NULL, UNIQUE (file, frame)
);
"""


def store_path(cache: Path, raw: Path, **settings: object) -> Path:
    """The store of the work on the folder `raw`: it hangs on `settings` and code that may change a file's result, so none that is out of date is met."""
    readers = [*sorted(Path(refining.__file__).parent.glob("*.py")), Path(__file__).with_name("medmnist.py")]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in readers]
    parts = [[os.path.abspath(raw)], [settings, code, [version(name) for name in LIBRARIES]]]
    return cache / ("-".join(hashlib.sha256(json.dumps(p).encode(errors="surrogateescape")).hexdigest()[:16] for p in parts) + ".sqlite")


class Store:
    """A SQLite file with the refined images and the refused files of one raw folder; what is in it was finished.

    A context manager: what was added is saved about every second, and when the block is left, however it is left.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the store; `UserError` when it is in use or broken. Older ones of the same raw folder go: they hold names and pixels."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{path.stem.split('-')[0]}-*"):
            if not old.name.startswith(path.name):
                old.unlink(missing_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a lost power supply may cost more than `SAVE_EVERY`, and spoils nothing
            self._db.executescript(TABLES)
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise UserError(f"{path}: {error}. Unless another run is refining this folder now, delete the file and start again") from None
        self._saved = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.execute("COMMIT")
        self._db.close()

    def remove(self) -> None:
        """Delete the store's file: the work is done."""
        self.path.unlink()

    def unfinished(self, raw: Path, files: Iterable[str]) -> dict[str, str]:
        """The files of the folder `raw` still to be done, each with its state (size and time of change), by which it is known next time.

        What the store holds of other files, of files changed since, and of files that were not finished is dropped. So are refusals that may
        have been the machine's fault (`finish`).
        """
        self._db.execute("DELETE FROM files WHERE again")
        states = {file: _state(on_disk(raw, file)) for file in files}
        held = dict(self._db.execute("SELECT file, state FROM files"))
        self._db.executemany("DELETE FROM files WHERE file = ?", [(file,) for file, state in held.items() if states.get(file) != state])
        self._db.execute("DELETE FROM images WHERE file NOT IN (SELECT file FROM files)")
        return {file: state for file, state in states.items() if held.get(file) != state}

    def add(self, file: str, frame: Refined) -> None:
        """Keep one frame of a file; the same frame again replaces it."""
        light = [file, *(getattr(frame, name) for name in LIGHT[1:])]
        self._db.execute(
            f"INSERT OR REPLACE INTO images ({', '.join(LIGHT)}, hashes, thumb, image) VALUES ({', '.join('?' * (len(LIGHT) + 3))})",
            [*light, frame.hashes, frame.thumb, frame.image],
        )

    def finish(self, file: str, state: str, reason: str | None, again: bool = False) -> None:
        """Note that a file is done; with a `reason` it cannot be used, and its frames go. `again`: the next run is to try it once more."""
        if reason is not None:
            self._db.execute("DELETE FROM images WHERE file = ?", (file,))
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", (file, state, reason, again))
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._db.execute("COMMIT")
            self._db.execute("BEGIN IMMEDIATE")
            self._saved = time.monotonic()

    def refused(self) -> dict[str, str]:
        """The reason for each file that cannot be used."""
        return dict(self._db.execute("SELECT file, reason FROM files WHERE reason IS NOT NULL"))

    def facts(self) -> pd.DataFrame:
        """What is light of every image, by file and frame: key and `LIGHT`."""
        columns = ["key", *LIGHT]
        found = self._db.execute(f"SELECT {', '.join(columns)} FROM images ORDER BY file, frame")
        parts = [pd.DataFrame(rows, columns=columns) for rows in iter(lambda: found.fetchmany(AT_ONCE), [])]
        return pd.concat(parts or [pd.DataFrame(columns=columns)], ignore_index=True).astype({"burned_in_text": bool})

    def fingerprints(self, keys: Sequence[int]) -> tuple[NDArray[np.uint64], Thumbs]:
        """The hashes (N, 8) and thumbs (N, 32, 32) of the given keys; the thumbs stay on disk until they are asked for."""
        hashes = np.empty((len(keys), 8), np.uint64)
        for i, hashed in enumerate(self._each("hashes", keys)):
            hashes[i] = np.frombuffer(hashed, "<u8")
        return hashes, _Thumbs(self, np.asarray(keys, np.int64))

    def thumbs(self, keys: Iterable[int]) -> NDArray[np.uint8]:
        """The thumbs (n, 32, 32) of the given keys."""
        return np.frombuffer(b"".join(self._each("thumb", keys)), np.uint8).reshape(-1, THUMB, THUMB)

    def images(self, keys: Iterable[int]) -> Iterator[bytes]:
        """The PNGs of the given keys, one after the other."""
        return self._each("image", keys)

    def _each(self, column: str, keys: Iterable[int]) -> Iterator[bytes]:
        for key in keys:
            yield self._db.execute(f"SELECT {column} FROM images WHERE key = ?", (int(key),)).fetchone()[0]


@dataclass(frozen=True)
class _Thumbs:
    """What `near_pairs` asks for thumbs: those of `keys` (N,) in `store`."""

    store: Store
    keys: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        return self.store.thumbs(self.keys[rows])


def _state(path: Path) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"
