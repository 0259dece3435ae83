"""The history of readings: who asked what of which model and when, what it said, and what the clinician thought of it. Never a picture or a file name."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from stages.runtime.errors import UserError

Opinion = Literal["agree", "disagree"]
WAIT = 30  # seconds for another session's writing to end
SCHEMA = """CREATE TABLE IF NOT EXISTS reading (
    id INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT NOT NULL, at TEXT NOT NULL, "case" TEXT NOT NULL, dataset TEXT NOT NULL, regime TEXT NOT NULL,
    model TEXT NOT NULL, data TEXT NOT NULL, images TEXT NOT NULL, result TEXT NOT NULL,
    opinion TEXT NOT NULL DEFAULT '' CHECK (opinion IN ('', 'agree', 'disagree')), comment TEXT NOT NULL DEFAULT '')"""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading. `who` an e-mail address, "" where nobody signs in; `model` the MD5 of dvc.lock, `data` the SHA-256 of the list of training
    images, `images` the SHA-256 of each uploaded file, separated by blanks; `result` JSON, as the page's report has it but for files and risk;
    `opinion` agree, disagree or "" (none given). `id` and `at` (UTC, ISO 8601) are the history's to give: 0 and "" until it has kept the reading.
    """

    id: int = 0
    who: str
    at: str = ""
    case: str
    dataset: str
    regime: str
    model: str
    data: str
    images: str
    result: str
    opinion: str = ""
    comment: str = ""


COLUMNS = [field.name for field in fields(Reading)]
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)  # quoted: "case" is a word of SQL


class History:
    """The readings in the SQLite file `path`, which is made, readable by its owner alone, when it is not there.

    Every method raises `UserError` when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.execute(SCHEMA)

    def add(self, reading: Reading) -> int:
        """Keep a reading; its number."""
        values = asdict(reading) | {"id": None, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        with self._open() as database:
            done = database.execute(f"INSERT INTO reading ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})", [values[name] for name in COLUMNS])
            return int(done.lastrowid or 0)

    def judge(self, number: int, case: str, opinion: Opinion | None, comment: str) -> bool:
        """Note the clinician's `opinion` and `comment` on a reading and file it under `case`; False when it has been erased."""
        with self._open() as database:
            values = (case, opinion or "", comment, number)
            return database.execute('UPDATE reading SET "case" = ?, opinion = ?, comment = ? WHERE id = ?', values).rowcount == 1

    def rows(self) -> list[Reading]:
        """Every reading, the latest first."""
        with self._open() as database:
            found = database.execute(f"SELECT {_NAMES} FROM reading ORDER BY id DESC")
            return [Reading(**dict(zip(COLUMNS, row, strict=True))) for row in found]

    def erase(self, case: str) -> int:
        """Erase every reading of `case`, from the file's free pages too; how many they were."""
        with self._open() as database:
            return database.execute('DELETE FROM reading WHERE "case" = ?', (case,)).rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction on a connection of its own: sessions are threads, and a connection belongs to one."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(sqlite3.connect(self._path, timeout=WAIT)) as connection, connection:
                connection.execute("PRAGMA secure_delete = ON")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"The history {self._path.name} cannot be used ({error}). Mend history.file in app/settings.toml or the file it names."
            ) from None


def as_csv(rows: Sequence[Reading]) -> str:
    """`rows` as CSV with a header. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([[f"'{cell}" if str(cell).startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in astuple(row)] for row in rows])
    return out.getvalue()
