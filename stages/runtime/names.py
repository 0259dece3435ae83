"""File names that are no text. On disk a name is bytes; folders unpacked from archives of other systems hold some that are not UTF-8.

Python shows such bytes as lone surrogates, which neither Arrow nor SQLite holds. Here each stands for a letter that Unicode keeps for
private use, as in Cygwin and WSL.
"""

from __future__ import annotations

import os
from pathlib import Path

_BYTES = range(0xDC80, 0xDD00)  # the surrogates of the bytes 128 to 255
_SHIFT = 0xF780 - _BYTES.start
_AS_TEXT = {code: code + _SHIFT for code in _BYTES}
_AS_BYTES = {letter: code for code, letter in _AS_TEXT.items()}


def as_text(name: str) -> str:
    """A name as Python lists it, as text that can be kept."""
    return name.translate(_AS_TEXT)


def on_disk(folder: Path, name: str) -> Path:
    """Where the file lies whose name `as_text` gave; a file that has these letters in its name goes before."""
    path = folder / name
    return path if os.path.lexists(path) else folder / name.translate(_AS_BYTES)


def printable(name: str) -> str:
    """A file's name as UTF-8 text for people, whatever its bytes: those that are no letters as \\xff."""
    return name.translate(_AS_BYTES).encode(errors="surrogateescape").decode(errors="backslashreplace")
