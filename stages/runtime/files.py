"""Writing that cannot be caught half-way, and hashes of files. No timestamps: the same result gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def fresh(folder: str | Path) -> Path:
    """An empty folder at `folder` (what was there is removed)."""
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` through a neighbour and a rename, making parent folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 `text` to `path`, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON: sorted keys, indented, NaN refused, a newline at the end."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(Path(path).read_text())


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: str | Path) -> str:
    """Hex SHA-256 over the names and bytes of every file under `folder`, in sorted order (git's and DVC's own files left out)."""
    total = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".gitignore"):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    return total.hexdigest()
