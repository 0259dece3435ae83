"""What a card's layout says about the files under data/raw/<name>: which are images, their labels, groups and attributes."""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from stages.dataset import medmnist
from stages.dataset.card import UNLABELLED, Card, Layout
from stages.dataset.groups import SPLITS
from stages.imaging.decode import known_as
from stages.runtime.errors import UserError
from stages.runtime.names import as_text, on_disk

UNKNOWN = {"", "unknown", "nan", "na", "n/a", "none", "null"}  # how tables say that a value is missing
HOT = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}  # what stands in a one-hot column


class Listing(NamedTuple):
    """`rows`: a row per usable image (columns file, label, group or None, attributes, ...); `refused`: file to reason;
    `without_file`: rows of the table for which there is no file.

    Of a MedMNIST archive each image has a row: `frame` is its number there, and those whose label is not on the card have
    none. Then there is `official_split` too, which rarelens does not use: it splits by group itself (DermaMNIST's
    own split has images of one lesion on both sides).
    """

    rows: pd.DataFrame
    refused: dict[str, str]
    without_file: int


def list_files(raw: str | Path) -> list[str]:
    """Every file under `raw`, hidden ones too, as sorted paths relative to it. Links to folders are listed, not followed.

    Raises `UserError` when there is no such folder, or one in it cannot be read.
    """

    def stop(error: OSError) -> None:
        advice = "shorten the names of the folders on the way to it" if error.errno == errno.ENAMETOOLONG else "change its permissions"
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): its files would be missing without a word; {advice}")

    if not os.path.isdir(raw):
        raise UserError(f"{raw} does not exist or is no folder: put the images there")
    found = []
    for folder, folders, files in os.walk(raw, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        inside = os.path.relpath(folder, raw)
        found += files + links if inside == "." else [f"{inside}/{name}" for name in files + links]
    return sorted(found)


def without_names(reason: str) -> str:
    """A reason without what it quotes from the data, for reports that others read: a folder or a cell may be called after a patient."""
    return re.sub(r"""'[^']*'|"[^"]*\"""", "…", reason)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text; else no table can name it."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 stand in it as lone surrogates
        return False
    return True


def read_listing(card: Card, raw: str | Path, files: list[str]) -> Listing:
    """Label, group, split and attributes of each of `files` (from `list_files`), or the reason why it is left out.

    Raises `UserError` when the table or one of its columns is missing.
    """
    layout = card.layout
    refused: dict[str, str] = {}
    found: dict[str, dict[str, object]] = {}
    odd = [file for file in files if not is_utf8(file)]
    if layout.kind == "medmnist" or layout.table:
        refused |= dict.fromkeys(odd, "the file's name is not UTF-8, so no table can name it: rename it")
    refused |= {file: "the file's name is not UTF-8, and like another's: rename it" for file in odd if as_text(file) in set(files)}
    files = [as_text(file) for file in files if file not in refused]
    if layout.kind == "medmnist":
        return _read_archives(card, Path(raw), files, refused)
    tables = [_find_table(name, key, files) for key, name in (("table", layout.table), ("metadata", layout.metadata)) if name]
    refused |= dict.fromkeys(tables, "metadata table named by the card, not an image")
    files = [file for file in files if file not in refused]
    named, without_file = _match(_read_tables(Path(raw), tables, card), layout, tables[0], files) if tables else ({}, 0)
    for file in files:
        reason, row = _row_of(card, file, named.get(file, []))
        if row is None:
            refused[file] = reason
        else:
            found[file] = row
    refused |= {
        file: f"{reason}; it is {known}" for file, reason in refused.items() if file not in tables and (known := _known_as(on_disk(Path(raw), file)))
    }
    columns = ["file", "label", "group", *card.attributes, *(["split"] if layout.split else []), *layout.extra]
    rows_table = pd.DataFrame([found[f] for f in sorted(found)], columns=columns)
    if "age" in rows_table:
        rows_table["age"] = pd.to_numeric(rows_table["age"], errors="coerce").astype(float)
    for name in layout.extra:
        numbers = pd.to_numeric(rows_table[name], errors="coerce")
        if bool((numbers.notna() | rows_table[name].isna()).all()):
            rows_table[name] = numbers
    return Listing(rows_table, refused, without_file)


def _known_as(path: Path) -> str | None:
    """What a file is that may have been put among images by mistake, such as an archive that is still to be unpacked."""
    try:
        if not path.is_file():  # a link to nowhere, or a pipe that would block
            return None
        with path.open("rb") as file:
            return known_as(file.read(512))
    except OSError:
        return None


def _read_archives(card: Card, raw: Path, files: list[str], refused: dict[str, str]) -> Listing:
    """The images of every file that has the name `layout.file`, in any folder; other files are refused, and broken archives."""
    parts = []
    for file in files:
        if PurePosixPath(file).name != card.layout.file:
            refused[file] = f"not the archive that the card's layout.file names, {card.layout.file}"
            continue
        try:
            rows = medmnist.read_rows(raw / file)
        except UserError as error:
            refused[file] = str(error)
            continue
        known = rows["label"].isin(card.layout.labels)
        if not known.any():
            refused[file] = f"none of its labels, {', '.join(sorted(set(rows['label'])))}, is in the card"
        parts.append(rows[known].assign(file=file, group=None))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["file", "frame", "label", "group", "official_split"])
    table["label"] = table["label"].map(card.layout.labels)
    return Listing(table[["file", "frame", "label", "group", "official_split"]], refused, 0)


def _find_table(name: str, key: str, files: list[str]) -> str:
    """A table's path under RAW_DIR: as the card says, or the only file of that name further down (an archive unpacked with its folder)."""
    if name in files:
        return name
    deeper = [f for f in files if f.endswith("/" + name)]
    if len(deeper) != 1:
        what = "there more than once" if deeper else "not there"
        raise UserError(f"under the raw folder the card's layout.{key} {name!r} is {what}; give its path there")
    return deeper[0]


def _encoding(path: Path) -> str:
    """How a table's text is written: as UTF-8, by its mark as UTF-16, or else as Windows-1252, which Excel writes in western countries."""
    data = path.read_bytes()
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def _separator(path: Path, encoding: str) -> str:
    """What parts the columns of a table, by its name and its first line."""
    if path.suffix == ".tsv":
        return "\t"
    with path.open(encoding=encoding, errors="replace") as opened:
        first = opened.readline(2**16)
    return max(",;\t", key=first.count)  # the comma where none is there


def read_csv(path: Path) -> pd.DataFrame:
    """A table separated by commas, tabs or (as European Excel writes it) semicolons, as text, stripped, '' where nothing stands.

    `UserError` when it cannot be read.
    """
    if not path.is_file():  # a pipe would never end
        raise UserError(f"{path} is not a regular file")
    try:
        encoding = _encoding(path)
        table = pd.read_csv(path, sep=_separator(path, encoding), dtype=str, keep_default_na=False, encoding=encoding)
    except (OSError, UnicodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} cannot be read as a table; save it as CSV UTF-8: {' '.join(str(error).split())}") from None
    if not isinstance(table.index, pd.RangeIndex):  # each row has more fields than the header, and pandas takes the first for names of the rows
        if table.index.nlevels > 1 or table.iloc[:, -1].any():
            raise UserError(f"{path}: its rows have more columns than its first line names; quote what holds a separator, or name every column")
        table = table.reset_index().iloc[:, :-1].set_axis(table.columns, axis=1)  # a separator ends each row
    table = table.fillna("").map(str.strip)
    stripped = [str(column).strip() for column in table]
    return table.set_axis(stripped, axis=1) if len(set(stripped)) == len(stripped) else table


def _read_tables(raw: Path, tables: list[str], card: Card) -> pd.DataFrame:
    """The columns that the card names of its table, those that only `metadata` has joined to them. Equal rows are one."""
    layout = card.layout
    labels = [layout.label] if layout.kind == "csv" else list(layout.labels) if layout.kind == "onehot" else []
    wanted = [c for c in dict.fromkeys((layout.file, *labels, layout.group, layout.split, *card.attributes.values(), *layout.extra)) if c]
    table, *more = (read_csv(raw / name) for name in tables)
    for other in more:
        if layout.file not in other:
            raise UserError(f"{raw / tables[1]} has no column {layout.file}, which the card's layout.file names; it has {', '.join(other.columns)}")
        if not other[layout.file].isin(table[layout.file]).any():
            raise UserError(
                f"{tables[0]} and {tables[1]} have no value of {layout.file} in common: are the names written alike, with or without ending?"
            )
        own = [c for c in wanted if c in other and (c == layout.file or c not in table)]
        table = table.merge(other[own].drop_duplicates(), on=layout.file, how="left").fillna("")
    missing = sorted(set(wanted) - set(table.columns))
    if missing:
        where = " and ".join(str(raw / name) for name in tables)
        raise UserError(f"{where} has no column(s) {', '.join(missing)}, which the card names; it has {', '.join(table.columns)}")
    return table[wanted].drop_duplicates()


def plain_name(name: str) -> str:
    """A file's name without what systems write differently: case, and accents in one sign or two."""
    return unicodedata.normalize("NFC", name).casefold()


def _folders(path: PurePosixPath) -> list[str]:
    """The plain names of the folders that `path` lies in, the nearest first."""
    return [plain_name(part) for part in reversed(path.parent.parts)]


def _match(table: pd.DataFrame, layout: Layout, name: str, files: list[str]) -> tuple[dict[str, list[dict[str, str]]], int]:
    """The table's rows for each file, by path under RAW_DIR, by path beside the table, or by bare name; and how many rows have no file.

    Backslashes count as slashes. For a row that fits no file so, neither case nor the form of accents counts, nor what stands before the first
    folder that is not here, from the file's name upwards (a path of another machine): it gets the one file that fits and is no other row's.
    Where `layout.suffix` says that the table leaves endings out, a file with another ending is found by its stem: DICOM lies next to JPEG.
    """
    home = PurePosixPath(name).parent
    bare = Counter(PurePosixPath(f).name for f in files)
    by_bare = {PurePosixPath(f).name: f for f in files}
    stems = Counter(PurePosixPath(f).stem for f in files) if layout.suffix else Counter[str]()
    by_stem = {PurePosixPath(f).stem: f for f in files}
    known = set(files)
    folders = {part for f in files for part in _folders(PurePosixPath(f))}
    rows = [dict(zip(table.columns, values, strict=True)) for values in table.to_numpy()]
    wanted = [PurePosixPath(row[str(layout.file)].replace("\\", "/") + layout.suffix) for row in rows]
    found: list[str | None] = []
    for row, path in zip(rows, wanted, strict=True):
        candidates = [path.as_posix(), (home / path).as_posix()]
        if bare[path.as_posix()] == 1:
            candidates.append(by_bare[path.as_posix()])
        if stems[row[str(layout.file)]] == 1:
            candidates.append(by_stem[row[str(layout.file)]])
        found.append(next((c for c in candidates if c in known), None))
    fitting: dict[str, set[str]] = {}
    for f in known - set(found):
        fitting.setdefault(plain_name(PurePosixPath(f).name), set()).add(f)

    def alike(path: PurePosixPath) -> str | None:
        known_to = list(takewhile(lambda part: part in folders, _folders(path)))
        left = [f for f in fitting.get(plain_name(path.name), ()) if all(a == b for a, b in zip(known_to, _folders(PurePosixPath(f)), strict=False))]
        return left[0] if len(left) == 1 else None

    matched: dict[str, list[dict[str, str]]] = {}
    for row, path, exact in zip(rows, wanted, found, strict=True):
        if file := exact or alike(path):
            matched.setdefault(file, []).append(row)
    return matched, len(rows) - sum(map(len, matched.values()))


def _row_of(card: Card, file: str, rows: list[dict[str, str]]) -> tuple[str, dict[str, object] | None]:
    """("", row) for a file that can be used, else (reason, None)."""
    layout = card.layout
    if len(rows) > 1:
        return f"the table has {len(rows)} rows that differ for this file", None
    if layout.table and not rows:
        return "not in the table", None
    row = rows[0] if rows else {}
    reason, label = _label_of(card, file, row)
    if label is None:
        return reason, None
    split = row[layout.split] if layout.split else ""
    if layout.split and split not in SPLITS:
        return f"split {split!r} is not one of {', '.join(SPLITS)}", None
    group = _value(row[layout.group]) if layout.group else None
    attributes = {ours: _value(row[theirs]) if row else None for ours, theirs in card.attributes.items()}
    extra = {column: _value(row[column]) for column in layout.extra}
    values: dict[str, object] = {"file": file, "label": label, "group": group, **attributes, **extra}
    return "", values | ({"split": split} if layout.split else {})


def _label_of(card: Card, file: str, row: dict[str, str]) -> tuple[str, str | None]:
    """("", class key) of a file, else (reason, None)."""
    labels = card.layout.labels
    if card.layout.kind == "flat":
        return "", UNLABELLED
    if card.layout.kind == "onehot":
        marks = {column: HOT.get(row[column].lower()) for column in labels}
        if odd := [column for column, mark in marks.items() if mark is None]:
            return f"column {odd[0]} holds {row[odd[0]]!r}, not 0 or 1", None
        hot = [column for column, mark in marks.items() if mark]
        if len(hot) != 1:
            return f"several label columns are 1: {', '.join(hot)}" if hot else f"none of the label columns {', '.join(labels)} is 1", None
        return "", labels[hot[0]]
    if card.layout.kind == "csv":
        raw_label = row[str(card.layout.label)]
    else:
        above = file.split("/")[-2::-1]
        if not above:
            return "lies in no class folder", None
        raw_label = next((name for name in above if name in labels), above[0])
    return ("", labels[raw_label]) if raw_label in labels else (f"label {raw_label!r} is not in the card", None)


def _value(text: str) -> str | None:
    return None if text.lower() in UNKNOWN else text
