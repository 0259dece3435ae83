"""Say what is in the data, what was quarantined, and what is wrong with it.

In:  the dataset card (title, phantom, layout, attributes, classes), REFINED (table, quarantine.csv, refined.json), SPLIT_CSV,
     params.yaml (blocks `data_report`, `rare`).
Out: REPORT_DIR/data.json, data.md (the same in words and tables) and data.png (training images of every class).

    python -m stages.data_report CARD REFINED SPLIT_CSV REPORT_DIR

`warnings` in data.json go into the verdict. One of them is a probe for a shortcut: what the brightness of an image's border
alone tells of a disease. It looks at training images only; the sealed parts are `evaluate`'s.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.dataset.card import Card, read_card
from stages.dataset.groups import SPLITS, read_split
from stages.dataset.table import decode, read_table
from stages.imaging.sheet import save_sheet
from stages.runtime.errors import run
from stages.runtime.files import read_json, write_json, write_text
from stages.runtime.markdown import markdown
from stages.runtime.params import Params, read_params

SHORTCUT = 0.9  # AUC from which a probe that cannot see the disease is a warning
LEAST_GROUPS = 10  # of a class, for the probe
CONFORMAL = {9: "90%", 19: "95%"}  # calibration lesions that a class-conditional set needs
LEFT_OUT = "left out"
PHANTOM = "drawings, not patients; the base knew this renderer. The long tail lies in train; the other parts were drawn with set counts per class."
BORDER = "median brightness of the border"


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


def originals(table: pd.DataFrame) -> dict[str, Any]:
    """What the raw files were: format and mode by class, the most frequent sizes, the range of file sizes in bytes."""
    kinds = table["format"] + " " + table["mode"]
    sizes = (table["width"].astype(str) + "x" + table["height"].astype(str)).value_counts()
    return {
        "kinds": {str(label): {str(k): int(n) for k, n in sorted(part.value_counts().items())} for label, part in kinds.groupby(table["label"])},
        "sizes": {str(k): int(n) for k, n in sorted(sizes.items(), key=lambda kn: (-kn[1], str(kn[0])))[:10]},
        "different_sizes": len(sizes),
        "file_bytes": {"min": int(table["file_bytes"].min()), "median": int(table["file_bytes"].median()), "max": int(table["file_bytes"].max())},
    }


def quarantine_reasons(quarantine: pd.DataFrame) -> dict[str, int]:
    """Files per reason; the file that an exact duplicate repeats is left off."""
    reasons = quarantine["reason"].map(lambda reason: re.sub(r"^exact duplicate of .*", "exact duplicate", reason))
    return {str(k): int(n) for k, n in sorted(reasons.value_counts().items(), key=lambda kn: (-kn[1], str(kn[0])))}


def border_brightness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Median luminance (0..1) of the outermost sixteenth of each image; (N, H, W, 3) uint8 to (N,)."""
    width = max(1, images.shape[1] // 16)
    ring = np.ones(images.shape[1:3], bool)
    ring[width:-width, width:-width] = False
    return np.asarray(np.median(images[:, ring] @ np.array([0.299, 0.587, 0.114]), axis=1) / 255)


def probe_auc(feature: NDArray[np.float64], positive: NDArray[np.bool_], groups: NDArray[np.object_]) -> float | None:
    """ROC AUC of a logistic curve in `feature` and its square, out of fold by group; None with fewer than 10 groups on a side."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if min(len(set(groups[positive])), len(set(groups[~positive]))) < LEAST_GROUPS:
        return None
    model = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), LogisticRegression(class_weight="balanced"))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    score = cross_val_predict(model, feature[:, None], positive, groups=groups, cv=folds, method="decision_function")
    return round(float(roc_auc_score(positive, score)), 4)


def shortcut_probe(feature: NDArray[np.float64], table: pd.DataFrame, disease: str, normal: list[str]) -> dict[str, Any]:
    """How far `feature` alone tells `disease` from the classes flagged normal and from all others: the higher AUC, with its n."""
    results: list[dict[str, Any]] = []
    for against, others in {" or ".join(normal): normal, "all other classes": sorted(set(table["label"]) - {disease})}.items():
        rows = table["label"].isin([disease, *others]).to_numpy()
        part = table[rows]
        positive = (part["label"] == disease).to_numpy()
        auc = probe_auc(feature[rows], positive, part["group"].to_numpy(object)) if others and disease not in normal else None
        results.append({"probe": BORDER, "against": against, "auc": auc, "n": len(part), "n_positive": int(positive.sum())})
    return max(results, key=lambda result: -1 if result["auc"] is None else result["auc"])


def make_warnings(facts: dict[str, Any], card: Card) -> list[str]:
    """What a reader of any result on these data must know, one sentence each."""
    said = []
    for disease, probe in facts["shortcut"].items():
        if probe["auc"] is not None and probe["auc"] > SHORTCUT:
            said.append(
                f"a model can score well on {disease} without seeing the disease: against {probe['against']}, the {BORDER} alone "
                f"gives AUC {probe['auc']:.3f} ({probe['n']} training images)"
            )
    for name, parts in facts["classes"].items():
        cal = parts.get("cal", {"groups": 0})["groups"]
        missing = [level for least, level in CONFORMAL.items() if cal < least]
        if missing:
            said.append(f"cal holds {cal} lesion(s) or patient(s) of {name}: too few for a conformal set at {' or '.join(missing)}")
    if card.layout.group is None:
        said.append("no patient or lesion ids: only near-duplicates tie images together, so one patient may lie on both sides of the split")
    if facts["groups"]["several_labels"]:
        said.append(f"{facts['groups']['several_labels']} group(s) hold images of more than one class: labels, ids or both may be wrong")
    if facts["near_duplicates"]["labels_disagree"]:
        said.append(f"{len(facts['near_duplicates']['labels_disagree'])} pair(s) of near-duplicates have different labels; data.json lists them")
    if facts["table_rows_without_file"]:
        said.append(f"{facts['table_rows_without_file']} row(s) of the metadata table have no file")
    return said


def make_facts(card: Card, params: Params, table: pd.DataFrame, quarantine: pd.DataFrame, refined: dict[str, Any]) -> dict[str, Any]:
    """Everything that data.json says. `table` holds every refined image with its split ("left out" where split.max_images cut it)."""
    images_a_group = table.groupby("group").size().value_counts().sort_index()
    labels = table.set_index("id")["label"]
    disagree = [[a, b, labels[a], labels[b]] for a, b in refined["near_duplicates"] if labels[a] != labels[b]]
    training = table[table["split"].isin(["train", "base"])]
    border = border_brightness(decode(training["image"]))
    normal = [name for name in card.class_names if card.classes[name].normal]
    facts: dict[str, Any] = {
        "name": card.name,
        "title": card.title,
        "phantom": card.phantom,
        "images": len(table),
        "classes": class_counts(table, card.class_names),
        "groups": {
            "count": int(table["group"].nunique()),
            "images_a_group": {str(size): int(n) for size, n in images_a_group.items()},
            "several_labels": int((table.groupby("group")["label"].nunique() > 1).sum()),
        },
        "attributes": {name: attribute_summary(table[name]) for name in sorted(card.attributes)},
        "originals": originals(table),
        "quarantine": quarantine_reasons(quarantine),
        "near_duplicates": {"pairs": len(refined["near_duplicates"]), "labels_disagree": disagree},
        "table_rows_without_file": refined["table_rows_without_file"],
        "shortcut": {disease: shortcut_probe(border, training, disease, normal) for disease in params.rare},
    }
    return facts | {"warnings": make_warnings(facts, card)}


def describe(facts: dict[str, Any], rare: list[str]) -> str:
    """data.md: `facts` in words and tables."""
    parts = [part for part in (*SPLITS, LEFT_OUT) if any(part in counts for counts in facts["classes"].values())]
    head = ["class", *parts]
    rows = []
    for name, counts in facts["classes"].items():
        cells = [f"{counts[p]['images']} / {counts[p]['groups']}" if p in counts else "0" for p in parts]
        rows.append([f"{name} (rare)" if name in rare else name, *cells])
    sections = [f"# {facts['title']}: the data"]
    if facts["phantom"]:
        sections.append(f"**{PHANTOM}**")
    if facts["warnings"]:
        sections += ["## Warnings", "\n".join(f"- {text}" for text in facts["warnings"])]
    groups = facts["groups"]
    spread = ", ".join(f"{n} with {size}" for size, n in groups["images_a_group"].items())
    sections += [
        "## Images / groups per class and part",
        markdown([head, *rows]),
        f"{facts['images']} images in {groups['count']} groups (patients, lesions, or near-duplicates). Images a group: {spread}.",
        "## Shortcut probe",
        "What the border alone tells; 0.5 or less is nothing, 1.0 gives the class away. Cross-validated by group, on training images.",
        markdown(
            [
                ["disease", "probe", "against", "AUC", "images", "of the disease"],
                *(
                    [d, p["probe"], p["against"], "too few" if p["auc"] is None else f"{p['auc']:.3f}", str(p["n"]), str(p["n_positive"])]
                    for d, p in facts["shortcut"].items()
                ),
            ]
        ),
    ]
    if facts["attributes"]:
        sections += ["## Attributes", markdown([["attribute", "known", "missing", "values"], *map(_attribute_row, facts["attributes"].items())])]
    raw = facts["originals"]
    kinds = [[name, ", ".join(f"{kind}: {n}" for kind, n in found.items())] for name, found in raw["kinds"].items()]
    sizes = ", ".join(f"{size}: {n}" for size, n in raw["sizes"].items())
    sections += [
        "## Raw files",
        markdown([["class", "format and mode"], *kinds]),
        f"Sizes in px ({raw['different_sizes']} different): {sizes}. Bytes a file: {raw['file_bytes']['min']} to {raw['file_bytes']['max']}.",
        "## Quarantine",
        markdown([["files", "reason"], *([str(n), reason.replace("|", "/")] for reason, n in facts["quarantine"].items())])
        if facts["quarantine"]
        else "Nothing was left out.",
        f"Near-duplicate pairs, whose groups were made one: {facts['near_duplicates']['pairs']}, "
        f"{len(facts['near_duplicates']['labels_disagree'])} of them with different labels.",
    ]
    return "\n\n".join(sections) + "\n"


def _attribute_row(item: tuple[str, dict[str, Any]]) -> list[str]:
    name, found = item
    levels = found.get("values") or {k: f"{v:g}" for k, v in found.items() if k not in ("known", "missing", "values")}
    return [name, str(found["known"]), str(found["missing"]), ", ".join(f"{k}: {v}" for k, v in levels.items())]


def main() -> None:
    """Read the card, the refined table and the split; write data.json, data.md and data.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("refined", type=Path, metavar="REFINED")
    parser.add_argument("split", type=Path, metavar="SPLIT_CSV")
    parser.add_argument("report", type=Path, metavar="REPORT_DIR")
    args = parser.parse_args()
    card, params = read_card(args.card), read_params()
    table = read_table(args.refined)
    split = read_split(args.split).set_index("id")["split"]
    table["split"] = table["id"].map(split).fillna(LEFT_OUT)
    quarantine = pd.read_csv(args.refined / "quarantine.csv", dtype=str, keep_default_na=False)
    facts = make_facts(card, params, table, quarantine, read_json(args.refined / "refined.json"))
    write_json(args.report / "data.json", facts)
    write_text(args.report / "data.md", describe(facts, params.rare))
    shown = table[table["split"].isin(["train", "base"])].groupby("label").head(params.data_report.sheet)
    save_sheet({card.classes[str(label)].title: decode(rows["image"]) for label, rows in shown.groupby("label")}, args.report / "data.png")
    for text in facts["warnings"]:
        print(f"warning: {text}")


if __name__ == "__main__":
    run(main)
