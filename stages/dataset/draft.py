"""A draft of a dataset card and its text: what is known or guessed, and in comments what a person must check."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from stages.dataset.card import BASE
from stages.dataset.medmnist_sets import SETS
from stages.dataset.raw import HOT
from stages.runtime.checked import flow

ASK = "not known: ask who gave you the data"
NORMAL = {"normal", "healthy", "control", "negative", "no_finding", "benign", "nv", "nevus"}  # class keys that may be the normal one


@dataclass
class Draft:
    """What a card says. `layout` is without its labels; `labels` maps raw labels to class keys, `titles` class keys to titles.

    `beside` maps a raw label to the comment at its line; `head` and `notes` (by the card's key) are comments above.
    """

    name: str
    layout: dict[str, Any]
    labels: dict[str, str]
    titles: dict[str, str]
    title: str = ""
    licence: str = ASK
    citation: str = ASK
    modality: str = "medical imaging"
    image: str = "a medical image of"
    normal: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    head: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)


def slug(text: str, other: str = "class") -> str:
    """`text` as a key: lower case, digits and _, beginning with a letter (`other` goes before what does not)."""
    key = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return key if key[:1].isalpha() and key not in (BASE, "yes", "no", "on", "off", "true", "false", "null") else f"{other}_{key}".strip("_")


def classes_of(raw_labels: list[str]) -> tuple[dict[str, str], dict[str, str], str | None]:
    """Raw label to class key, class key to title, and the class that by its name is the normal one.

    Labels that differ in case and spaces alone are one class; others never are, even where no letter tells them apart (ER+, ER-).
    """
    plain = {raw: re.sub(r"[_\s]+", " ", raw).strip() for raw in raw_labels}
    keys: dict[str, str] = {}
    for text in sorted({text.casefold() for text in plain.values()}):
        key, taken = slug(text), set(keys.values())
        keys[text] = next(k for k in (key, *(f"{key}_{n}" for n in range(2, len(keys) + 3))) if k not in taken)
    labels = {raw: keys[text.casefold()] for raw, text in plain.items()}
    titles = {labels[raw]: plain[raw] for raw in reversed(raw_labels)}
    return labels, dict(sorted(titles.items())), next((key for key in sorted(titles) if key in NORMAL), None)


def mark_classes(column: str, values: list[str]) -> tuple[dict[str, str], dict[str, str], str | None]:
    """`classes_of` for a column of 0 and 1 that is called after what it marks: the zeros are the normal class."""
    name = re.sub(r"[^A-Za-z0-9]+", " ", re.sub(r"\(.*?\)", "", column)).strip() or "finding"
    keys = {True: slug(name), False: slug(f"no {name}")}
    labels = {value: keys[HOT[value.lower()]] for value in values}
    return labels, {keys[False]: f"no {name}", keys[True]: name}, keys[False]


def medmnist_draft(file: str) -> Draft:
    """The card of the MedMNIST archive of that name, e.g. breastmnist.npz or pathmnist_64.npz: complete, nothing is left to fill in."""
    name = PurePosixPath(file).stem
    known = SETS[name.split("_")[0]]
    return Draft(
        name=name,
        layout={"kind": "medmnist", "file": file},
        labels={raw: key for raw, (key, _) in known.classes.items()},
        titles=dict(known.classes.values()),
        title=known.title,
        licence=known.licence,
        citation="Yang J et al. MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification. "
        "Scientific Data 10, 41 (2023); and the set's own source, named there",
        modality=known.modality,
        image=known.image,
        normal=known.normal,
        head=[
            f"Made by `python -m stages.card {name}`. Put {file} under data/raw/{name} (`python -m stages.source {name}` fetches it).",
            "The archive names no patients: near-duplicates alone tie images together. Its own split is not used.",
            *([known.note] if known.note else []),
        ],
    )


def write_draft(draft: Draft) -> str:
    """The card as YAML with comments."""
    lines: list[str] = []

    def say(*notes: str) -> None:
        """Comments, each one line: a column's name may hold a line break."""
        lines.extend(f"# {' '.join(note.split())}" for note in notes)

    say(*draft.head)

    def key(name: str, value: Any, beside: str = "") -> None:
        say(*draft.notes.get(name, []))
        lines.append(flow({name: value})[1:-1] + (f"  # {beside}" if beside else ""))

    def ask(value: str) -> str:
        return "to fill in" if value == ASK else ""

    key("name", draft.name)
    key("title", draft.title or draft.name.replace("_", " "), "" if draft.title else "as pages shall say it")
    key("licence", draft.licence, ask(draft.licence))
    key("citation", draft.citation, ask(draft.citation))
    key("modality", draft.modality, "check: dermoscopy, brain MRI, ..." if draft.licence == ASK else "")
    key("phantom", False)

    say(*draft.notes.get("layout", []))
    lines.append("layout:")
    lines += [f"  {flow({name: value})[1:-1]}" for name, value in draft.layout.items()]
    if draft.labels:
        lines.append("  labels:  # as in the data: key of the class")
        for raw, name in draft.labels.items():
            # A key of over 128 characters, or of several lines, would stand behind a question mark.
            told = f"{json.dumps(raw, ensure_ascii=False)}: {name}" if len(raw) > 100 or not raw.isprintable() else flow({raw: name})[1:-1]
            lines.append(f"    {told}" + (f"  # {draft.beside[raw]}" if raw in draft.beside else ""))
    key("attributes", draft.attributes)

    say(*draft.notes.get("classes", []))
    lines.append("classes:")
    for name, title in draft.titles.items():
        lines += [f"  {name}:", f"    {flow({'title': title})[1:-1]}"] + (["    normal: true"] if name == draft.normal else [])
    say(*draft.notes.get("prompts", []))
    lines += ["prompts:", f"  {BASE}: &general"]
    lines += [f"    - {flow([template])[1:-1]}" for template in templates(draft.image, draft.attributes)]
    lines += [f"  {name}: *general" for name in draft.titles]
    lines += [
        "symptoms: {}  # questions and their likelihood ratios, from a study that you have read: see data/ham10000.yaml",
        "risk: {low: 0.05, high: 0.3}  # EXAMPLE cut-offs of the probability: put in those at which you act",
    ]
    return "\n".join(lines) + "\n"


def templates(image: str, attributes: Mapping[str, str]) -> list[str]:
    """Prompts from the most that may be known of an image to nothing: `image` ("an X-ray of"), title, then attributes."""
    own = {"site": " on the {site}", "age": " of a {age} year old", "sex": " {sex}" if "age" in attributes else " of a {sex} patient"}
    words = "".join(text for name, text in own.items() if name in attributes)
    words += "".join(f", {name.replace('_', ' ')} {{{name}}}" for name in attributes if name not in own)
    return list(dict.fromkeys([f"{image} {{title}}{words}", f"{image} {{title}}"]))
