"""The dataset card `data/<name>.yaml`: what a data set is, where its images and labels lie, and what clinicians know of its classes."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.runtime.checked import explain, read_yaml

BASE = "base"  # the key of `prompts` that belongs to no class


class Part(BaseModel):
    """A part of a card: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(Part):
    """Where images and labels lie under RAW_DIR.

    `kind: folders` reads the label from the name of the file's parent folder; `kind: csv` from the column `label` of the
    table `table` (path under RAW_DIR), whose column `file` holds a path or a bare name; `suffix` is added to it ('' or '.jpg').
    `labels` maps a raw label to a class key. `group` names the column of the patient or lesion id (csv only; else every
    image is its own group until near-duplicates are merged); with kind folders a `table` may still give group and attributes.
    `split` names a column with a fixed split (the phantom's), `extra` columns that are carried along unread.
    """

    kind: Literal["csv", "folders"]
    labels: dict[str, str]
    table: str | None = None
    file: str | None = None
    suffix: str = ""
    label: str | None = None
    group: str | None = None
    split: str | None = None
    extra: list[str] = []

    @model_validator(mode="after")
    def _columns(self) -> Layout:
        if self.kind == "csv" and not (self.table and self.file and self.label):
            raise ValueError("kind csv needs table, file and label, e.g. table: metadata.csv, file: image_id, label: dx")
        if self.table and not self.file:
            raise ValueError("a table needs `file`, the column with the image's name")
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
    source: str

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
    prior: dict[str, float] = {}

    @model_validator(mode="after")
    def _order(self) -> Risk:
        if not self.low < self.high:
            raise ValueError("risk cut-offs need low < high")
        return self


class Card(Part):
    """A whole card. `attributes` maps our name (age, sex, site, skin_tone) to the table's column.

    `prompts` holds, per class, templates with {title} and attribute names in braces; under `base` those by which a base is
    taught its common classes. They stand apart from `classes`, so that a changed prompt reruns what it is read by, and no more.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    licence: str
    citation: str
    modality: str
    phantom: bool = False
    layout: Layout
    attributes: dict[str, str] = {}
    classes: dict[str, Class]
    prompts: dict[str, Annotated[list[str], Field(min_length=1)]]
    symptoms: dict[str, Symptom] = {}
    risk: Risk

    @model_validator(mode="after")
    def _agree(self) -> Card:
        if set(self.layout.labels.values()) != set(self.classes):
            raise ValueError(f"layout.labels maps to {sorted(set(self.layout.labels.values()))}, classes has {sorted(self.classes)}; they must agree")
        if set(self.prompts) != {*self.classes, BASE}:
            raise ValueError(f"prompts has {sorted(self.prompts)}; it must have {BASE!r} and every class: {sorted(self.classes)}")
        for key, templates in self.prompts.items():
            fields = {field for template in templates for _, field, _, _ in Formatter().parse(template) if field is not None}
            if wrong := fields - {"title"} - set(self.attributes):
                raise ValueError(f"prompts.{key}: {sorted(wrong)} is no attribute; in braces may stand {', '.join(['title', *self.attributes])}")
        for key, symptom in self.symptoms.items():
            unknown = (set(symptom.present) | set(symptom.absent)) - set(self.classes)
            if unknown:
                raise ValueError(f"symptoms.{key} names unknown class(es) {sorted(unknown)}")
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
        raise explain(error, path) from None
