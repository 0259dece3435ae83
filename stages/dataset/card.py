"""The dataset card `data/<name>.yaml`: what a data set is, where its images and labels lie, and what clinicians know of its classes."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.runtime.checked import explain, flow, read_yaml
from stages.runtime.errors import UserError

BASE = "base"  # the key of `prompts` that belongs to no class
UNLABELLED = "unlabelled"  # the only class of a flat folder

#: A whole card that shows every key there is: each message about a wrong key shows its place here, and a test keeps it valid.
EXAMPLE = yaml.safe_load("""
name: nevi
title: Moles and melanomas of our clinic
licence: CC BY 4.0
show_images: true
citation: "Roe J. A set of moles. Journal of Examples 1, 1 (2024)"
modality: dermoscopy
phantom: false
layout:
  kind: csv
  table: metadata.csv
  metadata: patients.csv
  file: image
  suffix: .jpg
  label: dx
  group: patient
  split: part
  extra: [device]
  collection: isic
  labels: {NV: nv, MEL: mel}
attributes: {age: age_approx, sex: sex}
classes:
  nv: {title: melanocytic nevus, synonyms: [mole, nevus], normal: true}
  mel: {title: melanoma, synonyms: [malignant melanoma], normal: false}
prompts:
  base: ["a dermoscopic image of {title}"]
  nv: ["a dermoscopic image of {title}"]
  mel: ["a dermoscopic image of {title} of a {age} year old {sex}", "a dermoscopic image of {title}"]
symptoms:
  changing:
    question: Has it changed over the last months?
    present: {mel: {value: 3.0, low: 1.5, high: 6.0, source: EXAMPLE}}
    absent: {mel: {value: 0.5, low: 0.3, high: 0.9, source: EXAMPLE}}
risk: {low: 0.05, high: 0.3, prior: {mel: 0.1}}
""")


class Part(BaseModel):
    """A part of a card: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


PROMPTS = flow({"prompts": {BASE: EXAMPLE["prompts"][BASE]}})[1:-1]
#: The keys that a kind of layout cannot do without.
NEEDED = {
    "csv": ("table", "file", "label", "labels"),
    "onehot": ("table", "file", "labels"),
    "folders": ("labels",),
    "flat": (),
    "medmnist": ("file", "labels"),
}


class Layout(Part):
    """Where images and labels lie under RAW_DIR. `labels` maps a raw label to a class key; others are left out. By `kind`, the raw label is

    - `csv`: what stands in the column `label` of the table `table` (path under RAW_DIR), whose column `file` holds a path or a
      bare name; `suffix` is added to it ('' or '.jpg');
    - `onehot`: the name of the one column that is 1 (or 1.0) in the file's row, of the columns that `labels` names;
    - `folders`: the name of the nearest folder above the file that `labels` names;
    - `flat`: there is none. Every file gets the class `unlabelled`, the card's only one: to look at and to predict on, nothing to learn from;
    - `medmnist`: the number in `<split>_labels` of the MedMNIST archive `file` (breastmnist.npz).

    `group` names the column of the patient or lesion id (without it every image is its own group until near-duplicates are
    merged), `split` one with a fixed split (the phantom's), `extra` columns that are carried along unread. With the kinds
    folders and flat a `table` may still give these and the attributes. `metadata` is a second table with the same column
    `file`, whose further columns are joined to those of `table`. `collection` names the archive from which names of images and ids of
    lesions come (isic), where several data sets take them from one: then one is left out of the other's external test by them.
    """

    kind: Literal["csv", "folders", "onehot", "flat", "medmnist"]
    labels: dict[str, str] = {}
    table: str | None = None
    metadata: str | None = None
    file: str | None = None
    suffix: str = ""
    label: str | None = None
    group: str | None = None
    split: str | None = None
    extra: list[str] = []
    collection: str | None = None

    @model_validator(mode="after")
    def _keys_fit_kind(self) -> Layout:
        if missing := [key for key in NEEDED[self.kind] if not getattr(self, key)]:
            raise ValueError(f"kind {self.kind} needs {', '.join(NEEDED[self.kind])}; missing: {', '.join(missing)}")
        if self.kind == "flat" and self.labels:
            raise ValueError("kind flat has no labels: take out `labels`, or choose the kind that says where they are")
        if self.kind == "medmnist" and self.table:
            raise ValueError("kind medmnist takes no table: its archive holds images and labels, and nothing of the patients")
        if self.table and not self.file:
            raise ValueError("a table needs `file`, the column with the image's name")
        if not self.table and (lost := [key for key in ("metadata", "label", "group", "split", "extra") if getattr(self, key)]):
            raise ValueError(f"{', '.join(lost)} can only be read from a table: add `table` and `file`, or take out {', '.join(lost)}")
        return self


class Class(Part):
    """A class: its title as prompts and pages say it."""

    title: str
    synonyms: list[str] = []
    normal: bool = False


class Ratio(Part):
    """A likelihood ratio with its 95% interval and source ("EXAMPLE" when no source was opened)."""

    value: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _order(self) -> Ratio:
        if not self.low <= self.value <= self.high:
            raise ValueError("a likelihood ratio needs low <= value <= high")
        return self


class Symptom(Part):
    """A question of the symptom form and, per disease, what a yes and a no are worth."""

    question: str
    present: dict[str, Ratio]
    absent: dict[str, Ratio] = {}


class Risk(Part):
    """Cut-offs of the posterior probability: under `low` is low risk, from `high` on is high risk."""

    low: float = Field(gt=0, lt=1)
    high: float = Field(gt=0, lt=1)
    prior: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}

    @model_validator(mode="after")
    def _order(self) -> Risk:
        if not self.low < self.high:
            raise ValueError("risk cut-offs need low < high")
        return self


def _braces(template: str) -> list[str]:
    """What stands in the braces of a prompt, {title} as title; what is more than a name (a format, a conversion, an open brace) as it is written."""
    try:
        parts = [(name, form, conversion) for _, name, form, conversion in Formatter().parse(template) if name is not None]
    except ValueError:
        return [template]
    return [name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") for name, form, conversion in parts]


class Card(Part):
    """A whole card. `attributes` maps our name (age, sex, site, skin_tone) to the table's column.

    `prompts` holds, per class, templates with {title} and attribute names in braces; under `base` those by which a base is
    taught its common classes. They stand apart from `classes`, so that a changed prompt reruns what it is read by, and no more.
    `show_images` is false where the licence does not let the page show real images of the set.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    licence: str
    show_images: bool = True
    citation: str
    modality: str
    phantom: bool = False
    layout: Layout
    attributes: dict[str, str] = {}
    classes: Annotated[dict[str, Class], Field(min_length=1)]
    prompts: dict[str, Annotated[list[str], Field(min_length=1)]]
    symptoms: dict[str, Symptom] = {}
    risk: Risk

    @model_validator(mode="after")
    def _agree(self) -> Card:
        mapped = set(self.layout.labels.values())
        if self.layout.kind == "flat":
            if set(self.classes) != {UNLABELLED}:
                raise ValueError(
                    f"with layout.kind flat nothing tells files apart, and classes has {sorted(self.classes)}; the only one must be {UNLABELLED}. "
                    f"Example: classes: {{{UNLABELLED}: {{title: an image without a label}}}}"
                )
        elif mapped != set(self.classes):
            raise ValueError(
                f"layout.labels maps to {sorted(mapped)}, classes has {sorted(self.classes)}; they must agree. "
                f"Example: labels: {flow({c: c for c in sorted(self.classes)})}"
            )
        if self.attributes and not self.layout.table:
            raise ValueError("attributes can only be read from a table: add layout.table and layout.file, or write attributes: {}")
        if set(self.prompts) != {*self.classes, BASE}:
            example = flow({key: ["an image of {title}"] for key in (BASE, *sorted(self.classes))})
            raise ValueError(f"prompts has {sorted(self.prompts)}; it must have {BASE!r} and every class. Example: prompts: {example}")
        for key, templates in self.prompts.items():
            allowed = ["title", *self.attributes]
            if wrong := sorted({field for template in templates for field in _braces(template)} - set(allowed)):
                raise ValueError(f"prompts.{key}: {wrong} cannot be filled in; in braces may stand {', '.join(allowed)}. Example: {PROMPTS}")
        one = sorted(self.classes)[0]
        for key, symptom in self.symptoms.items():
            unknown = (set(symptom.present) | set(symptom.absent)) - set(self.classes)
            if unknown:
                example = flow({key: {"present": {one: EXAMPLE["symptoms"]["changing"]["present"]["mel"]}}})
                raise ValueError(
                    f"symptoms.{key} names unknown class(es) {sorted(unknown)}; there are {sorted(self.classes)}. Example: symptoms: {example}"
                )
        if unknown := set(self.risk.prior) - set(self.classes):
            example = flow({"prior": {one: 0.01}})
            raise ValueError(f"risk.prior names unknown class(es) {sorted(unknown)}; there are {sorted(self.classes)}. Example: risk: {example}")
        return self

    @property
    def class_names(self) -> list[str]:
        """The class keys in the order that every model uses: sorted."""
        return sorted(self.classes)


def read_card(path: str | Path) -> Card:
    """The checked card in `path`."""
    value = read_yaml(path)
    try:
        return Card.model_validate(value)
    except ValidationError as error:
        raise explain(error, path, EXAMPLE) from None


def read_card_to_learn(path: str | Path) -> Card:
    """`read_card`, for stages that train: refused when there is nothing to learn from, as images without labels or of one class."""
    card = read_card(path)
    if len(card.classes) < 2:
        raise UserError(
            f"{path}: the only class is {card.class_names[0]!r}: without a second one there is nothing to learn from. "
            "Such data can be refined, looked at (data_report) and predicted on; to train, give labels (layout.kind folders, csv or onehot)"
        )
    return card
