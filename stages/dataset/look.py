"""Looking at a folder that somebody sent: where its images, labels and patients may be."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from stages.dataset import medmnist
from stages.dataset.card import UNLABELLED, Card
from stages.dataset.columns import MOST_CLASSES, Columns, guess, is_mark, label_hint
from stages.dataset.draft import Draft, classes_of, mark_classes, medmnist_draft, slug
from stages.dataset.medmnist_sets import SETS
from stages.dataset.raw import UNKNOWN, is_utf8, list_files, read_csv, read_listing
from stages.runtime.errors import UserError

TABLES = (".csv", ".tsv")
BOOKS = (".xlsx", ".xls", ".ods")
NO_IMAGES = (*TABLES, ".txt", ".md", ".json", ".xml", ".html", ".pdf", ".xlsx", ".xls", ".zip", ".tar", ".gz", ".py", ".yaml", ".yml")
MOST_IMAGES = 0.8  # of the images must lie in class folders, else the folders are something else
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "images", "img"}  # folders that are no classes


def look(path: Path) -> Draft:
    """The draft card of what lies at `path`: a folder, a MedMNIST archive, or the name of a MedMNIST set.

    Raises `UserError` where there is nothing to make a card of.
    """
    if path.name.split("_")[0] in SETS and not path.exists():
        return medmnist_draft(f"{path.name}.npz")
    if path.is_file() and path.suffix == ".npz":
        return _archive(path)
    if path.is_file():
        raise UserError(
            f"{path} is a file: give the folder that holds the images, a MedMNIST .npz, or the name of a MedMNIST set ({', '.join(SETS)})"
        )
    files = list_files(path)
    archives = [f for f in files if PurePosixPath(f).suffix == ".npz" and PurePosixPath(f).stem.split("_")[0] in SETS]
    if archives:
        draft = _archive(path / archives[0])
        draft.head += [f"{other} lies there too: a card of its own, if wanted." for other in archives[1:]]
        return draft
    images = [f for f in files if is_utf8(f) and not f.lower().endswith(NO_IMAGES) and not PurePosixPath(f).name.startswith(".")]
    if not images:
        raise UserError(f"{path} holds {len(files)} file(s), and none that may be an image: unpack archives first")
    draft = _from_table(path, files, images) or _from_folders(path, images) or _flat(path, files, images)
    _describe(draft, path, files, images)
    return draft


def _archive(path: Path) -> Draft:
    if path.stem.split("_")[0] not in SETS:
        raise UserError(f"{path}: its name is none of MedMNIST's 2D sets: {', '.join(SETS)} (or breastmnist_64 and so on)")
    draft = medmnist_draft(path.name)
    if unknown := sorted(set(medmnist.read_rows(path)["label"]) - set(draft.labels)):
        raise UserError(f"{path} holds label(s) {', '.join(unknown)}, which {draft.title} does not have: the name is not that of the set within")
    return draft


def _from_table(path: Path, files: list[str], images: list[str]) -> Draft | None:
    """A draft by the table that labels the most files, with a second table's columns where the first lacks them."""
    tables: dict[str, tuple[pd.DataFrame, Columns]] = {}
    for name in (f for f in files if is_utf8(f) and f.lower().endswith(TABLES) and not PurePosixPath(f).name.startswith(".")):
        table = read_csv(path / name)
        if found := guess(table, images):
            tables[name] = (table, found)
    labelled = [name for name, (_, c) in tables.items() if c.label or c.onehot]
    if not labelled:
        return None
    main = max(labelled, key=lambda name: tables[name][1].matched)
    table, columns = tables[main]
    raw = columns.onehot or [value for value in sorted(table[columns.label].unique()) if value.lower() not in UNKNOWN]
    layout: dict[str, Any] = {"kind": "onehot" if columns.onehot else "csv", "table": main, "file": columns.file, "suffix": columns.suffix}
    if columns.label:
        layout["label"] = columns.label
    group, attributes = columns.group, columns.attributes
    more = {name: c for name, (_, c) in tables.items() if name != main and c.file == columns.file and (c.attributes or c.group)}
    if more:
        second = max(more, key=lambda name: (more[name].matched, len(more[name].attributes)))
        layout["metadata"], group, attributes = second, group or more[second].group, more[second].attributes | attributes
    marked = columns.label is not None and not label_hint(columns.label) and is_mark(table[columns.label])
    labels, titles, normal = mark_classes(str(columns.label), raw) if marked else classes_of(raw)
    draft = Draft(slug(path.resolve().name, "data"), layout, labels, titles, normal=normal, attributes=attributes)
    where = "columns" if columns.onehot else f"values of the column {columns.label}"
    notes = [f"Guessed: {columns.matched} of {len(table)} rows of {main} name a file by {columns.file}; classes are the {where}."]
    if group:
        layout["group"] = group
        notes.append(f"group is guessed from the name of the column {group}: check that one patient (or lesion) has one value there.")
    else:
        names = ", ".join(dict.fromkeys([*table.columns, *(tables[layout["metadata"]][0].columns if more else [])]))
        notes.append(f"no patient column found among {names}: if one is there, add `group: <column>`; without it,")
        notes.append("images of one patient may be both learned from and tested on.")
    draft.notes["layout"] = notes
    return draft


def _from_folders(path: Path, images: list[str]) -> Draft | None:
    """A draft by class folders: the level of folders with the fewest names, at least two, that are not train, val and test and hold most images."""
    levels: dict[int, Counter[str]] = {}
    for image in images:
        for depth, name in enumerate(PurePosixPath(image).parts[:-1]):
            levels.setdefault(depth, Counter())[name] += 1
    levels = {
        depth: names
        for depth, names in levels.items()
        if 2 <= len(names) <= MOST_CLASSES and names.total() >= MOST_IMAGES * len(images) and not {name.lower() for name in names} <= PARTS
    }
    if not levels:
        return None
    depth = min(levels, key=lambda d: (len(levels[d]), d))
    labels, titles, normal = classes_of(sorted(levels[depth]))
    draft = Draft(slug(path.resolve().name, "data"), {"kind": "folders"}, labels, titles, normal=normal)
    draft.notes["layout"] = ["no patient column found: folders name no patients. If you have a table of file and patient, put it beside the folders",
                             "and add table, file and group; without it, images of one patient may be both learned from and tested on."]  # fmt: skip
    if any(len(PurePosixPath(image).parts) > depth + 2 for image in images):
        draft.notes["layout"].append("There are folders within the class folders: if each is a patient, such a table is needed.")
    return draft


def _flat(path: Path, files: list[str], images: list[str]) -> Draft:
    draft = Draft(slug(path.resolve().name, "data"), {"kind": "flat"}, {}, {UNLABELLED: "an image without a label"})
    draft.notes["layout"] = ["No labels found, in folders or in a table. Such data can be refined, looked at and predicted on; training stages refuse them.",
                             "If the labels are in a table, put it there as .csv with a column of file names and a column of labels.",
                             *_unused(path, files, images)]  # fmt: skip
    return draft


def _unused(path: Path, files: list[str], images: list[str]) -> list[str]:
    """Where labels may be that were not found, and what to do with them: tables without, workbooks, the beginnings of the files' names."""
    told = []
    for name in filter(is_utf8, files):
        if name.lower().endswith(BOOKS):
            told.append(f"{name} was not read: save its sheet as CSV UTF-8.")
        elif name.lower().endswith(TABLES) and not PurePosixPath(name).name.startswith("."):
            table = read_csv(path / name)
            found = guess(table, images)
            why = f"its column {found.file} names files, and no other is surely a label" if found else "no column of it names the images"
            told.append(f"{name} was not used: {why} ({', '.join(map(str, table.columns[:8]))}).")
            if found:
                told.append(f"If one is: kind: csv, table: {name}, file: {found.file}, label: <column>, labels: {{<value>: <class>}}.")
    starts = Counter(begins[0] for image in images if (begins := re.match(r"[^\W\d_]{2,}", PurePosixPath(image).name)))
    if 2 <= len(starts) <= MOST_CLASSES and starts.total() == len(images) > 2 * len(starts):
        told.append(
            f"The files' names begin with {', '.join(sorted(starts))}: if these are classes, put each one's files into a folder of that name."
        )
    return told


def _describe(draft: Draft, path: Path, files: list[str], images: list[str]) -> None:
    """Count, by the listing that refine will use, the files of each class and those left out; say what to check."""
    classes = {name: {"title": title} for name, title in draft.titles.items()}
    card = Card.model_validate({
        "name": draft.name, "title": "-", "licence": "-", "citation": "-", "modality": "-", "layout": draft.layout | {"labels": draft.labels},
        "attributes": draft.attributes, "classes": classes, "prompts": {key: ["{title}"] for key in ("base", *classes)}, "risk": {"low": 0.1, "high": 0.5},
    })  # fmt: skip
    listing = read_listing(card, path, files)
    counts = Counter(listing.rows["label"])
    draft.beside = {raw: f"{counts[key]} files" for raw, key in draft.labels.items()}
    dicom = sum(_is_dicom(path / file) for file in images)
    endings = Counter(PurePosixPath(file).suffix.lower() or "none" for file in images)
    draft.head = [
        f"A draft, made by `python -m stages.card` from a look at the folder: check every line, then save it as data/{draft.name}.yaml,",
        f"with the images under data/raw/{draft.name}.",
        f"{len(files)} files: {len(listing.rows)} with a class, {len(listing.refused)} left out; by ending "
        + ", ".join(f"{end} {n}" for end, n in endings.most_common(6)) + (f"; {dicom} are DICOM." if dicom else "."),
    ]  # fmt: skip
    reasons = Counter(listing.refused.values())
    draft.head += [f"Left out, {n}: {reason}" for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:5]]
    if listing.without_file:
        draft.head.append(f"{listing.without_file} row(s) of the table have no file.")
    if dicom:
        draft.notes["layout"].append("DICOM tags are not read for labels or patients, and do not go on: only a table can give them.")
    if draft.labels:
        guessed = (
            f"{draft.normal} is taken for the normal class by its name: check." if draft.normal else "Add `normal: true` to the class that is normal."
        )
        draft.notes["classes"] = [guessed, "Titles are what prompts and pages say: write each disease as a clinician would."]
    if draft.attributes:
        draft.notes["attributes"] = ["Our name: the table's column. Guessed from names and values: check."]


def _is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark after its preamble of 128 bytes."""
    try:
        if not path.is_file():  # a pipe would never end
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
