"""Audit the generator on real images that nobody trained on: quality, accuracy, memorisation, and a blinded sheet for a person.

In:  dataset card, refined images, split (`reserve`: the null of the memorisation tests, and apart from it the scorer's images; where a
     disease has none, its images of val are the null), base, adapters, every attempt of `generate`.
Out: REPORT_DIR/audit.json, audit.md, audit/ (pictures, rating_form.csv and its key). It stops, the report written, when the images are
     copies beyond `audit.max_copy_rate`, a LoRA knows its training images, or accepted images are black or one picture.

    python -m stages.audit CARD REFINED SPLIT BASE_DIR LORA_DIR SYNTHETIC REPORT_DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages.classifier import encoders, scorer
from stages.classifier.start import start_weights
from stages.dataset.card import Card, read_card_to_learn
from stages.dataset.groups import group_hash, read_seen, read_split, refuse_overlap
from stages.dataset.reserve import NULL, REST, divide
from stages.dataset.table import colourless, decode, read_table
from stages.diffusion.candidates import Candidates, flat, flaws, read_candidates
from stages.diffusion.commons import draw_common
from stages.diffusion.membership import learned
from stages.diffusion.selection import BROKEN, EMPTY
from stages.metrics import audit_figures, audit_report
from stages.metrics.accuracy import accuracy, place
from stages.metrics.generative import LEAST_IMAGES, compare, inception_score, pairs
from stages.metrics.memorisation import LEAST, NO_RESERVE, UNKNOWN, membership_auc, search
from stages.metrics.rating import FORM, KEY, SHEET, choose
from stages.quality.pictures import captioned
from stages.runtime.errors import LawError, run
from stages.runtime.files import fresh, write_json, write_text
from stages.runtime.params import Audit, Params, read_params

MEMBERS = 200  # training images in the membership test, at most
OTHERS = 3  # null images per training image in the membership test
PAIRS = 12  # closest pairs shown per disease
LPIPS_PAIRS = 300  # pairs of images whose perceptual distance is taken, per set
PER_ROW = 10  # images in a row of the blinded sheet
Images = NDArray[np.uint8]


def quality(encoder: encoders.Encoder, real: Mapping[str, Images], found: Candidates, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """In one encoder, against the rest of reserve: the null's floor, and per mode the candidates before and after the filter."""
    rest, null, fake = encoder(real[REST]), encoder(real[NULL]), encoder(found.images)
    modes = {
        mode: {"before": compare(rest, fake[own], seed), "after": compare(rest, fake[own & found.accepted], seed)}
        for mode, own in ((mode, found.of(mode)) for mode in found.modes)
    }
    return compare(rest, null, seed), modes


def as_published(own: pd.DataFrame, found: Candidates, weights: Mapping[str, Path], size: int, seed: int) -> dict[str, Any]:
    """The scores that papers report whose `weights` are at hand, of the rest of reserve and of each mode's accepted images."""
    if not weights:
        return {}
    sets = {"real": decode(own.loc[own["use"] == REST, "image"], size)} | {m: found.images[found.of(m) & found.accepted] for m in found.modes}
    told: dict[str, Any] = {}
    for name, images in sets.items():
        if len(images) < LEAST_IMAGES:
            continue
        told[name] = {"n": len(images)}
        if encoders.INCEPTION_SCORE in weights:
            logits = encoders.known_outputs(encoders.INCEPTION, weights[encoders.INCEPTION_SCORE], True, images)
            told[name][encoders.INCEPTION_SCORE] = inception_score(logits)
        if encoders.LPIPS in weights:
            a, b = pairs(len(images), LPIPS_PAIRS, seed).T
            told[name][encoders.LPIPS] = float(encoders.lpips(weights[encoders.LPIPS], images[a], images[b]).mean())
    return told


def memorised(
    encoder: encoders.Encoder, table: pd.DataFrame, train: pd.DataFrame, null: Images, found: Candidates, size: int
) -> tuple[dict[str, Any], audit_figures.Nearest]:
    """Copies per mode, against the disease's training images and whatever else the mode started from; and what the pictures show of it."""
    results: dict[str, Any] = {}
    seen = audit_figures.Nearest({}, {}, [])
    for mode in found.modes:
        own = np.flatnonzero(found.of(mode))
        if not len(own):
            results[mode] = {"copy_excess": UNKNOWN | {"n": 0, "note": "no finite image"}, "auth_pct": UNKNOWN | {"n": 0, "note": "no finite image"}}
            continue
        others = table[table["id"].isin(set(found.table["source"][own].dropna()) - set(train["id"]))]
        training = decode([*train["image"], *others["image"]], size)
        told = search(encoder, found.images[own], training, null)
        results[mode] = told.found
        seen.distances[mode], seen.null[mode] = told.distance, told.null
        seen.pairs.extend((float(d), mode, found.images[i], training[w]) for d, i, w in zip(told.distance, own, told.which, strict=True))
    return results, seen


def membership(base_dir: Path, lora_dir: Path, disease: str, card: Card, train: pd.DataFrame, null: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Whether the disease's LoRA knows its training images from those of the null; `LawError` when it has no effect at all."""
    p, members = params.audit, train.head(MEMBERS)
    others = null.head(OTHERS * len(members))
    gains = learned(base_dir, lora_dir / disease, disease, card, [members, others] if len(others) else [], p, params.threads)
    if not gains:
        return UNKNOWN | {"n": len(members)}
    of_members, of_others = gains
    return membership_auc(of_members, of_others, list(members["group"]), list(others["group"]), p.seed)


def audit_disease(
    disease: str, args: argparse.Namespace, card: Card, params: Params, table: pd.DataFrame, found: Candidates, seeing: Mapping[str, encoders.Encoder]
) -> tuple[dict[str, Any], dict[str, Any], audit_figures.Nearest]:
    """What audit.json says of a disease per mode, its floors per encoder, and what its pictures show."""
    size, p = params.refine.size, params.audit
    own = table[table["label"] == disease]
    train, null = own[own["split"] == "train"], own[own["use"] == NULL]
    null_from = "reserve"
    if null.empty:  # few patients leave nothing over; nobody trained on val either
        null, null_from = own[own["split"] == "val"], "val"
    real = {use: decode(own.loc[own["use"] == use, "image"], size) for use in (NULL, REST)}
    first = next(iter(seeing))
    enough = all(len(images) for images in real.values())
    told = {name: quality(encoder, real, found, p.seed) for name, encoder in seeing.items()} if enough else {}
    copies, seen = memorised(seeing[first], table, train, decode(null["image"], size), found, size)
    known = membership(args.base_dir, args.lora_dir, disease, card, train, null, params)
    results = {}
    for mode in found.modes:
        mine = found.of(mode)
        kids = [told[first][0]["kid"], told[first][1][mode]["before"]["kid"]] if enough else [None, None]
        floor, kid = (k["value"] if isinstance(k, dict) else None for k in kids)
        results[mode] = {
            "n": int(mine.sum()),
            "accepted": int((mine & found.accepted).sum()),
            "unusable": {BROKEN: found.broken.get(mode, 0), EMPTY: flat(found.images[mine])},
            "kid": kid,
            "kid_floor": floor,
            "quality": {name: modes[mode] for name, (_, modes) in told.items()} if enough else NO_RESERVE,
            "null_from": null_from,
            "membership_auc": known,
            **copies[mode],
        }
    return results, {name: floor for name, (floor, _) in told.items()}, seen


def generator(args: argparse.Namespace, card: Card, params: Params, table: pd.DataFrame, found: Mapping[str, Candidates]) -> dict[str, Any]:
    """Accuracy of the generator over all classes by a scorer trained on the rest of `reserve`, beside that of real val images, one a lesion."""
    p, classes, size = params.audit, card.class_names, params.refine.size
    rest, val = table[table["use"] == REST], table[table["split"] == "val"].drop_duplicates("group").groupby("label").head(p.per_class)
    for rows, part in ((rest, "reserve"), (val, "val")):
        if missing := sorted(set(classes) - set(rows["label"])):
            return {"generator_f1": None, "real_f1": None, "note": f"no {part} images of {', '.join(missing)}"}
    accepted = {disease: each.images[each.accepted] for disease, each in found.items()}
    count = min(p.per_class, *map(len, accepted.values()))
    if not count:
        return {
            "generator_f1": None,
            "real_f1": None,
            "note": f"no accepted images of {', '.join(d for d, images in accepted.items() if not len(images))}",
        }
    drawn = {d: images[np.random.default_rng(p.seed).permutation(len(images))[:count]] for d, images in accepted.items()}
    train = table[table["split"] == "train"].drop(columns="image")
    known = {c: train[train["label"] == c].to_dict("records") for c in classes if c not in found}
    drawn |= draw_common(args.base_dir, card, known, count, size, p, params.threads, colourless(np.concatenate(list(drawn.values()))))
    number = {name: k for k, name in enumerate(classes)}
    labels = np.repeat([number[c] for c in drawn], [len(images) for images in drawn.values()])
    probabilities = scorer.score(
        decode(rest["image"], size), np.asarray(rest["label"].map(number), np.int64), np.concatenate([*drawn.values(), decode(val["image"], size)]),
        classes=len(classes), start=start_weights(args.base_dir, params.train.backbone), steps=p.scorer_steps, train=params.train,
        threads=params.threads,
    )  # fmt: skip
    named = probabilities.argmax(1)
    ours = accuracy(labels, named[: len(labels)], classes, p.seed)
    real = accuracy(np.asarray(val["label"].map(number), np.int64), named[len(labels) :], classes, p.seed)
    return {
        "generator_f1": ours["macro_f1"]["value"],
        "real_f1": real["macro_f1"]["value"],
        "beside_real": place(ours["macro_f1"]["value"], real["macro_f1"]),
        "per_class": count,
        "scorer_trained_on": {c: int((rest["label"] == c).sum()) for c in classes},
        "generator": ours,
        "real": real,
    }


def blinded(table: pd.DataFrame, found: Mapping[str, Candidates], size: int, p: Audit, out: Path) -> int:
    """The sheet, the empty form and the key, in `out`; how many images are on it."""
    real = table[table["split"].isin(["val", "reserve"])]
    ids = {d: list(real.loc[real["label"] == d, "id"]) for d in found}
    key = choose(ids, {d: list(each.table["id"][each.accepted]) for d, each in found.items()}, p.sheet, p.seed)
    if key.empty:
        return 0
    pictures = {i: image for each in found.values() for i, image in zip(each.table["id"], each.images, strict=True)}
    chosen = real[real["id"].isin(key["id"])]
    pictures |= dict(zip(chosen["id"], decode(chosen["image"], size), strict=True))
    shown = [(pictures[i], str(n)) for n, i in zip(key["number"], key["id"], strict=True)]
    captioned([shown[k : k + PER_ROW] for k in range(0, len(shown), PER_ROW)], out / SHEET, generated=True)
    write_text(out / KEY, key.to_csv(index=False))
    write_text(out / FORM, key[["number"]].assign(answer="").to_csv(index=False))
    return len(key)


def main() -> None:
    """Read, check law 1, measure, write, and stop when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("card", "refined", "split", "base_dir", "lora_dir", "synthetic", "report"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    size = params.refine.size
    determinism.fix(params.threads, params.audit.seed)
    for folder in (args.base_dir, *(args.lora_dir / disease for disease in params.rare)):
        seen_groups = read_seen(folder)
        refuse_overlap(seen_groups, split, str(folder))
        if seen_groups & set(split.loc[split["split"] == "reserve", "group"].map(group_hash)):
            raise LawError(f"{folder} has seen a group of reserve, which is to tell what nobody trained on: rebuild it from this split (dvc repro)")
    refined = read_table(args.refined).drop(columns=["label", "group", "split"], errors="ignore")
    table = split[split["split"].isin(["train", "val", "reserve"])].merge(refined, on="id").sort_values("id", ignore_index=True)
    table["use"] = table["id"].map(divide(split, params.rare, LEAST))
    found = {disease: read_candidates(args.synthetic / disease, size) for disease in sorted(params.rare)}
    seeing, missing = encoders.at_hand(args.base_dir)

    out = fresh(args.report / "audit")
    results: dict[str, Any] = {}
    floors: dict[str, Any] = {}
    with threadpool_limits(1, user_api="blas"):  # sums of several threads differ in their last bit
        for disease, each in found.items():
            results[disease], floors[disease], seen = audit_disease(disease, args, card, params, table, each, seeing)
            audit_figures.draw_pairs(seen, PAIRS, out / f"pairs_{disease}.png")
            audit_figures.draw_distances(seen, card.classes[disease].title, out / f"distances_{disease}.png")
    whole = generator(args, card, params, table, found)
    weights = {score: path for score, name in encoders.PUBLISHED.items() if (path := encoders.cached(name))}
    missing += [score for score in encoders.PUBLISHED if score not in weights]
    whole["published"] = {d: as_published(table[table["label"] == d], each, weights, size, params.audit.seed) for d, each in found.items()}
    whole |= {"floors": floors, "encoders": list(seeing), "not_at_hand": missing, "on_sheet": blinded(table, found, size, params.audit, out)}
    whole["stops"] = audit_report.stops(results, {d: flaws(each) for d, each in found.items()}, params.audit.max_copy_rate)
    whole["warnings"] = audit_report.warnings(results, whole, params.audit.per_class)
    if "generator" in whole:
        audit_figures.draw_accuracy(whole, card.class_names, out / "accuracy.png")
    record = audit_report.rounded({**results, "all": whole})
    write_json(args.report / "audit.json", record)
    write_text(args.report / "audit.md", audit_report.document(record, card, params, args.report))
    for text in record["all"]["warnings"]:
        print(f"warning: {text}")
    if record["all"]["stops"]:
        raise LawError(f"{'; '.join(record['all']['stops'])}. See {args.report / 'audit.md'}")


if __name__ == "__main__":
    run(main)
