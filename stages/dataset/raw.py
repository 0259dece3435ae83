"""What a card's layout says about the files under data/raw/<name>: which are images, their labels, groups and attributes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from stages.dataset.card import Card, Layout
from stages.dataset.groups import SPLITS
from stages.runtime.errors import UserError

UNKNOWN = {"", "unknown", "nan", "na", "n/a", "none", "null"}  # how tables say that a value is missing


class Listing(NamedTuple):
    """`rows`: a row per usable file (column `file`, label, group or None, attributes, ...); `refused`: file to reason;
    `without_file`: rows of the table for which there is no file."""

    rows: pd.DataFrame
    refused: dict[str, str]
    without_file: int


def list_files(raw: str | Path) -> list[str]:
    """Every file under `raw`, hidden ones too, as sorted paths relative to it. Links to folders are listed, not followed.

    Raises `UserError` when there is no such folder.
    """
    if not os.path.isdir(raw):
        raise UserError(f"{raw} does not exist or is no folder: put the images there")
    found = []
    for folder, folders, files in os.walk(raw):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        found += [Path(folder, name).relative_to(raw).as_posix() for name in files + links]
    return sorted(found)


def read_listing(card: Card, raw: str | Path, files: list[str]) -> Listing:
    """Label, group, split and attributes of each of `files` (from `list_files`), or the reason why it is left out.

    Raises `UserError` when the table or one of its columns is missing.
    """
    layout = card.layout
    refused: dict[str, str] = {}
    found: dict[str, dict[str, object]] = {}
    for file in files:
        try:
            file.encode()
        except UnicodeEncodeError:  # no table can name it, and Arrow cannot hold it
            refused[file] = "the file's name is not UTF-8: rename it"
    files = [file for file in files if file not in refused]
    table = _find_table(layout, files)
    if table:
        refused[table] = "metadata table named by the card, not an image"
        named, without_file = _match(_read_table(Path(raw) / table, card), layout, table, [f for f in files if f != table])
    else:
        named, without_file = {}, 0
    for file in files:
        if file in refused:
            continue
        rows = named.get(file, [])
        reason, row = _row_of(card, file, rows)
        if row is None:
            refused[file] = reason
        else:
            found[file] = row
    columns = ["file", "label", "group", *card.attributes, *(["split"] if layout.split else []), *layout.extra]
    rows_table = pd.DataFrame([found[f] for f in sorted(found)], columns=columns)
    if "age" in rows_table:
        rows_table["age"] = pd.to_numeric(rows_table["age"], errors="coerce").astype(float)
    for name in layout.extra:
        numbers = pd.to_numeric(rows_table[name], errors="coerce")
        if bool((numbers.notna() | rows_table[name].isna()).all()):
            rows_table[name] = numbers
    return Listing(rows_table, refused, without_file)


def _find_table(layout: Layout, files: list[str]) -> str | None:
    """The table's path under RAW_DIR: as the card says, or the only file of that name further down (an archive unpacked with its folder)."""
    if not layout.table:
        return None
    if layout.table in files:
        return layout.table
    deeper = [f for f in files if f.endswith("/" + layout.table)]
    if len(deeper) != 1:
        what = "there more than once" if deeper else "not there"
        raise UserError(f"under the raw folder the card's layout.table {layout.table!r} is {what}; give its path there")
    return deeper[0]


def _read_table(path: Path, card: Card) -> pd.DataFrame:
    layout = card.layout
    try:
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 table: {' '.join(str(error).split())}") from None
    label = layout.label if layout.kind == "csv" else None
    wanted = [c for c in (layout.file, label, layout.group, layout.split, *card.attributes.values(), *layout.extra) if c]
    missing = sorted(set(wanted) - set(table.columns))
    if missing:
        raise UserError(f"{path} has no column(s) {', '.join(missing)}, which the card names; it has {', '.join(table.columns)}")
    return table[list(dict.fromkeys(wanted))].map(str.strip).drop_duplicates()


def _match(table: pd.DataFrame, layout: Layout, name: str, files: list[str]) -> tuple[dict[str, list[dict[str, str]]], int]:
    """The table's rows for each file, by path under RAW_DIR, by path beside the table, or by bare name; and how many rows have no file."""
    home = PurePosixPath(name).parent
    bare = Counter(PurePosixPath(f).name for f in files)
    by_bare = {PurePosixPath(f).name: f for f in files}
    known = set(files)
    matched: dict[str, list[dict[str, str]]] = {}
    without_file = 0
    for values in table.to_numpy():
        row = dict(zip(table.columns, values, strict=True))
        wanted = row[str(layout.file)] + layout.suffix
        candidates = [wanted, (home / wanted).as_posix()]
        if bare[wanted] == 1:
            candidates.append(by_bare[wanted])
        file = next((c for c in candidates if c in known), None)
        if file is None:
            without_file += 1
        else:
            matched.setdefault(file, []).append(row)
    return matched, without_file


def _row_of(card: Card, file: str, rows: list[dict[str, str]]) -> tuple[str, dict[str, object] | None]:
    """("", row) for a file that can be used, else (reason, None)."""
    layout = card.layout
    if len(rows) > 1:
        return f"the table has {len(rows)} rows that differ for this file", None
    if layout.table and not rows:
        return "not in the table", None
    row = rows[0] if rows else {}
    if layout.kind == "csv":
        raw_label = row[str(layout.label)]
    else:
        parent = PurePosixPath(file).parent.name
        if not parent:
            return "lies in no class folder", None
        raw_label = parent
    label = layout.labels.get(raw_label)
    if label is None:
        return f"label {raw_label!r} is not in the card", None
    split = row[layout.split] if layout.split else ""
    if layout.split and split not in SPLITS:
        return f"split {split!r} is not one of {', '.join(SPLITS)}", None
    group = _value(row[layout.group]) if layout.group else None
    attributes = {ours: _value(row[theirs]) if row else None for ours, theirs in card.attributes.items()}
    extra = {column: _value(row[column]) for column in layout.extra}
    values: dict[str, object] = {"file": file, "label": label, "group": group, **attributes, **extra}
    return "", values | ({"split": split} if layout.split else {})


def _value(text: str) -> str | None:
    return None if text.lower() in UNKNOWN else text
