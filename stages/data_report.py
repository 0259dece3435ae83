"""Say what is in the data, what was quarantined, and what is wrong with it.

In:  the dataset card (title, phantom, layout, attributes, classes), REFINED (table, quarantine.csv, refined.json), SPLIT_CSV,
     the backbone of MODELS_BASE, which describes pictures for the list of labels, params.yaml (blocks `data_report`, `rare`, `threads`).
Out: REPORT_DIR/data.json, data.md (the same in words and tables), data.png (training images of every class) and data/*.png (what a shortcut
     looks like, near-duplicates and groups whose labels disagree, labels to look at again).

    python -m stages.data_report CARD REFINED SPLIT_CSV MODELS_BASE REPORT_DIR

`warnings` in data.json go into the verdict; those of the shortcut audit (`stages/quality/shortcut.py`) lead it and stand on the page.
The audit, the confounders and the list of labels look at training images only; the sealed parts are `evaluate`'s. Pictures are read a
chunk at a time, so that what is held of an image is its row of numbers.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages.classifier import backbone
from stages.dataset.card import Card, read_card
from stages.dataset.groups import read_split
from stages.dataset.raw import without_names
from stages.dataset.table import Pictures, read_facts, showing
from stages.imaging.duplicates import components
from stages.imaging.sheet import save_sheet
from stages.quality import pictures
from stages.quality.confounding import MISSING, confounders, strong
from stages.quality.labels import review
from stages.quality.probes import BOX, CHUNK, Images, all_probes
from stages.quality.report import LEFT_OUT, describe, shortcut_sentence
from stages.quality.shortcut import audit, with_all_together
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, write_json, write_text
from stages.runtime.params import DataReport, read_params

CONFORMAL = {9: "90%", 19: "95%"}  # calibration lesions that a class-conditional set needs
EXAMPLES = 8  # pairs or groups shown, and group ids listed
Draw = Callable[[Path], None]
See = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def class_counts(table: pd.DataFrame, classes: list[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Images and groups per class and part; `table` has label, group and split."""
    counts: dict[str, dict[str, dict[str, int]]] = {name: {} for name in classes}
    for (label, split), rows in table.groupby(["label", "split"]):
        counts[str(label)][str(split)] = {"images": len(rows), "groups": int(rows["group"].nunique())}
    return counts


def attribute_summary(values: pd.Series) -> dict[str, Any]:
    """Numbers: quartiles and range; names: counts of the 20 most frequent. Both with the number of missing values."""
    known = values.dropna()
    summary: dict[str, Any] = {"known": len(known), "missing": len(values) - len(known)}
    if pd.api.types.is_numeric_dtype(known) and len(known):
        levels = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1.0}
        return summary | {name: round(float(known.quantile(level)), 3) for name, level in levels.items()}
    return summary | {"values": {str(k): int(n) for k, n in sorted(known.value_counts().items(), key=lambda kn: (-kn[1], str(kn[0])))[:20]}}


def originals(table: pd.DataFrame, size: int) -> dict[str, Any]:
    """What the raw files were: format and mode by class, the most frequent sizes, how many were enlarged to `size` px, the range of sizes in bytes."""
    kinds = table["format"] + " " + table["mode"]
    sizes = (table["width"].astype(str) + "x" + table["height"].astype(str)).value_counts()
    return {
        "kinds": {str(label): {str(k): int(n) for k, n in sorted(part.value_counts().items())} for label, part in kinds.groupby(table["label"])},
        "sizes": {str(k): int(n) for k, n in sorted(sizes.items(), key=lambda kn: (-kn[1], str(kn[0])))[:10]},
        "different_sizes": len(sizes),
        "enlarged": {"n": int((table[["width", "height"]].min(axis=1) < size).sum()), "to": size},
        "file_bytes": {"min": int(table["file_bytes"].min()), "median": int(table["file_bytes"].median()), "max": int(table["file_bytes"].max())},
    }


def quarantine_reasons(quarantine: pd.DataFrame) -> dict[str, int]:
    """Files per reason; what a reason quotes, and the file that an exact duplicate repeats, are left off."""
    reasons = quarantine["reason"].map(lambda reason: re.sub(r"^exact duplicate of .*", "exact duplicate", without_names(reason)))
    return {str(k): int(n) for k, n in sorted(reasons.value_counts().items(), key=lambda kn: (-kn[1], str(kn[0])))}


def titled(card: Card, name: str) -> str:
    """How a sentence names a class: "dermatofibroma (df)"."""
    return f"{card.classes[name].title} ({name})"


def near_duplicates(table: pd.DataFrame, pairs: list[list[str]]) -> dict[str, Any]:
    """How many near-duplicate `pairs` (ids) there are, the clusters that they form, and the pairs whose labels differ: id, id, label, label."""
    labels = table.set_index("id")["label"]
    ids, codes = np.unique(np.array(pairs, str).reshape(-1, 2), return_inverse=True)
    sizes = np.bincount(components(len(ids), codes.reshape(-1, 2))) if len(ids) else np.zeros(0, np.int64)
    disagree = [[a, b, labels[a], labels[b]] for a, b in pairs if labels[a] != labels[b]]
    return {"pairs": len(pairs), "clusters": len(sizes), "largest": int(sizes.max(initial=0)), "labels_disagree": disagree}


def shortcuts(
    card: Card, rare: list[str], p: DataReport, training: pd.DataFrame, images: Images
) -> tuple[dict[str, dict[str, Any]], dict[str, Draw]]:  # fmt: skip
    """The audit of each disease of `rare` against the classes that the card flags normal, else against all others; and a picture of each.
    `images` gives the pictures of rows of `training`.

    Groups that hold images of both sides are left out: nobody knows which label is right.
    """
    normal = [name for name in card.class_names if card.classes[name].normal]
    acquisition = [name for name in ("burned_in_text", *card.layout.extra) if name in training and name not in BOX]
    everything = all_probes(training, images, acquisition) if rare and len(training) else []
    found: dict[str, dict[str, Any]] = {}
    drawings: dict[str, Draw] = {}
    for disease in rare:
        against = normal if normal and disease not in normal else [name for name in card.class_names if name != disease]
        told = " or ".join(card.classes[name].title for name in against) if against == normal else "all other classes"
        rows = training["label"].isin([disease, *against])
        side = training["label"] == disease
        pure = side[rows].groupby(training["group"]).transform("nunique").reindex(training.index) == 1
        kept = np.flatnonzero(rows & pure)
        part, positive = training.iloc[kept], side.to_numpy()[kept]
        probes = with_all_together([probe.of(kept) for probe in everything])
        result = audit(probes, positive, part["group"].to_numpy(object), p.permutations, p.seed)
        entry = {key: value for key, value in asdict(result).items() if key not in ("scores", "aucs")}
        entry |= {"probes": result.aucs, "fires": result.fires, "against": told, "n": len(part), "n_positive": int(positive.sum())}
        entry["warning"] = shortcut_sentence(titled(card, disease), entry) if result.fires else None
        found[disease] = entry
        if result.probe is not None:
            probe = next(probe for probe in probes if probe.name == result.probe)
            title = card.classes[disease].title
            drawings[f"shortcut_{disease}.png"] = partial(pictures.draw_shortcut, result, probe, positive, only(images, kept), title, told)
    return found, drawings


def make_warnings(facts: dict[str, Any], card: Card) -> list[str]:
    """What a reader of any result on these data must know, one sentence each."""
    said = [found["warning"] for found in facts["shortcut"].values() if found["fires"]]
    for name in strong(facts["confounded"]):
        strength = facts["confounded"][name]["strength"]
        what = f"whether {name.split(':')[0]} is recorded" if name.endswith(MISSING) else name.replace("_", " ")
        said.append(
            f"{what} goes with the diagnosis (strength {strength:.2f} of 1): a model that guesses it from the picture gains without the disease"
        )
    for name, parts in facts["classes"].items():
        cal = parts.get("cal", {"groups": 0})["groups"]
        missing = [level for least, level in CONFORMAL.items() if cal < least]
        if missing and len(facts["classes"]) > 1:  # of one class no model is made
            said.append(
                f"cal holds {cal} lesion(s) or patient(s) of {titled(card, name)}: too few to promise that the model's sets of possible diagnoses "
                f"hold the true one in {' or '.join(missing)} of cases"
            )
    if card.layout.group is None:
        said.append("no patient or lesion ids: only near-duplicates tie images together, so one patient may lie on both sides of the split")
    if facts["groups"]["several_labels"]:
        said.append(f"{facts['groups']['several_labels']} group(s) hold images of more than one class: labels, ids or both may be wrong")
    if facts["near_duplicates"]["labels_disagree"]:
        said.append(f"{len(facts['near_duplicates']['labels_disagree'])} pair(s) of near-duplicates have different labels; data.json lists them")
    left_out = [*facts["quarantine"].items(), *facts["frame_copies"].items()]
    copies = sum(n for reason, n in left_out if reason.startswith("exact duplicates under different labels"))
    if copies:
        said.append(f"{copies} images are exact copies of each other under different labels, and were left out: nobody knows which label is right")
    if facts["table_rows_without_file"]:
        said.append(f"{facts['table_rows_without_file']} row(s) of the metadata table have no file")
    return said


def only(images: Images, rows: NDArray[np.intp]) -> Images:
    """`images` of a part of its table: of `rows` (N,), by position among them."""
    return lambda some: images(rows[some])


def described(images: Images, count: int, see: See) -> NDArray[np.float64]:
    """What `see` tells of all `count` images, (count, D), a chunk of them in memory at once."""
    return np.concatenate([see(images(np.arange(start, min(start + CHUNK, count)))) for start in range(0, count, CHUNK)])


def make_facts(
    card: Card, rare: list[str], p: DataReport, table: pd.DataFrame, images: Images, quarantine: pd.DataFrame, refined: dict[str, Any], see: See
) -> tuple[dict[str, Any], dict[str, Draw]]:  # fmt: skip
    """Everything that data.json says, and what draws each picture under data/, by file name.

    `table` holds what is known of every refined image that shows something, with its split ("left out" where split.max_images cut it), indexed from 0; `images`
    gives the pictures (n, H, W, 3) of rows (n,) of it; `see` tells of pictures what is in them, (n, D).
    """
    images_a_group = table.groupby("group").size().value_counts().sort_index()
    labels_a_group = table.groupby("group")["label"].nunique()
    several = sorted(labels_a_group.index[labels_a_group > 1])
    rows = np.flatnonzero(table["split"].isin(["train", "base"]))
    training, trained_on = table.iloc[rows].reset_index(drop=True), only(images, rows)
    shortcut, drawings = shortcuts(card, rare, p, training, trained_on)
    doubts = review(training, described(trained_on, len(rows), see), p.review)
    facts: dict[str, Any] = {
        "name": card.name,
        "title": card.title,
        "titles": {name: card.classes[name].title for name in card.class_names},
        "phantom": card.phantom,
        "images": len(table),
        "classes": class_counts(table, card.class_names),
        "groups": {
            "count": int(table["group"].nunique()),
            "images_a_group": {str(size): int(n) for size, n in images_a_group.items()},
            "several_labels": len(several),
            "several_labels_ids": several[:EXAMPLES],
        },
        "attributes": {name: attribute_summary(table[name]) for name in sorted(card.attributes)},
        "confounded": confounders(training, sorted({*card.attributes, *card.layout.extra} - set(BOX)), p.permutations, p.seed),
        "originals": originals(table, images(np.arange(1)).shape[1]),
        "burned_in_text": (
            {name: int(n) for name, n in table.groupby("label")["burned_in_text"].sum().items()} if "burned_in_text" in table else None
        ),
        "quarantine": quarantine_reasons(quarantine),
        "unusable": refined["unusable"],
        "frames_left_out": {reason: n for reason, n in refined["frames_left_out"].items() if n},
        "frame_copies": refined["frame_copies"],
        "near_duplicates": near_duplicates(table, refined["near_duplicates"]),
        "table_rows_without_file": refined["table_rows_without_file"],
        "public_ids": refined["public_ids"],
        "boxes": set(BOX) <= set(table),
        "shortcut": shortcut,
        "label_review": doubts.drop(columns="row").to_dict("records"),
    }

    def labelled(rows: pd.DataFrame) -> list[tuple[NDArray[np.uint8], str]]:
        return list(zip(images(rows.index.to_numpy()), rows["label"].map(facts["titles"]), strict=True))

    if len(doubts):
        said = [
            f"{k}. labelled {facts['titles'][label]}; the model says {facts['titles'][other]} ({share:.0%})"
            for k, (label, other, share) in enumerate(doubts[["label", "suggested", "probability"]].itertuples(index=False), start=1)
        ]
        told = list(zip(trained_on(doubts["row"].to_numpy()), said, strict=True))
        drawings["labels.png"] = lambda path: pictures.captioned([told[k : k + 5] for k in range(0, len(told), 5)], path)
    if pairs := [pair[:2] for pair in facts["near_duplicates"]["labels_disagree"][:EXAMPLES]]:
        paired = [table.iloc[pd.Index(table["id"]).get_indexer(pair)] for pair in pairs]
        drawings["pairs.png"] = lambda path: pictures.captioned([labelled(rows) for rows in paired], path)
    if several:
        shown = [table[table["group"] == group].sort_values("label") for group in several[:EXAMPLES]]
        drawings["groups.png"] = lambda path: pictures.captioned([labelled(rows.drop_duplicates("label")) for rows in shown], path)
    return facts | {"warnings": make_warnings(facts, card)}, drawings


def main() -> None:
    """Read the card, the refined table and the split; write data.json, data.md and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("refined", type=Path, metavar="REFINED")
    parser.add_argument("split", type=Path, metavar="SPLIT_CSV")
    parser.add_argument("base", type=Path, metavar="MODELS_BASE")
    parser.add_argument("report", type=Path, metavar="REPORT_DIR")
    args = parser.parse_args()
    card, params = read_card(args.card), read_params(rare_needed=False)
    if unknown := sorted(set(params.rare) - set(card.classes)):
        raise UserError(
            f"params.yaml: rare names {', '.join(unknown)}, which {args.card} does not have; it has {', '.join(card.class_names)}. "
            "Where no class is a disease to be found, as in images without labels, write rare: []"
        )
    determinism.fix(params.threads)
    table = read_facts(args.refined)
    rows = showing(table)
    table, images = table.iloc[rows].reset_index(drop=True), only(Pictures(args.refined), rows)
    split = read_split(args.split).set_index("id")["split"]
    table["split"] = table["id"].map(split).fillna(LEFT_OUT)
    quarantine = pd.read_csv(args.refined / "quarantine.csv", dtype=str, keep_default_na=False)
    refined = read_json(args.refined / "refined.json")
    with threadpool_limits(1):  # the matrices are small, and sums of several threads differ in their last bit
        facts, drawings = make_facts(
            card, params.rare, params.data_report, table, images, quarantine, refined, partial(backbone.features, args.base / "backbone")
        )
    folder = fresh(args.report / "data")
    for name, draw in drawings.items():
        draw(folder / name)
    write_json(args.report / "data.json", facts)
    write_text(args.report / "data.md", describe(facts, params.rare, ["data.png", *(f"data/{name}" for name in drawings)]))
    shown = table[table["split"].isin(["train", "base"])].groupby("label").head(params.data_report.sheet)
    save_sheet({card.classes[str(label)].title: images(rows.index.to_numpy()) for label, rows in shown.groupby("label")}, args.report / "data.png")
    for text in facts["warnings"]:
        print(f"warning: {text}")


if __name__ == "__main__":
    run(main)
