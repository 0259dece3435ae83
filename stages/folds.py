"""Test on every lesion: run a preset's graph once a fold of the test set, and give one verdict on the pooled out-of-fold predictions.

In:  a preset with `split.test` 1 / K; the raw images of its data set. Each fold has its own split, judge, generator, classifiers and
     calibration; the split `base` lies outside all folds, so one base serves them.
Out: reports/<name>/: verdict.json (with `folds`), verdict.md, metrics.json, metrics/, detail/ and figures/ of the pool.
A finished fold is kept in .cache/folds/<name>: a stopped run goes on with the next one.

    python -m stages.folds PRESET
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.classifier.mix import KINDS
from stages.dataset.card import read_card
from stages.metrics import figures, report
from stages.metrics.classification import Truth, confusion, over_seeds, per_class
from stages.metrics.intervals import bootstrap, intervals
from stages.metrics.verdict import AA, WHAT, decide, statement
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, sha256, write_bytes, write_json, write_text
from stages.runtime.ids import keyed
from stages.runtime.launch import LOCK, alone, call, keep_replaced, preset_in_place, read_preset, rename_images, require_images, restore
from stages.runtime.params import REGIMES, Params

CACHE = Path(".cache/folds")


def key_of(values: Mapping[str, Any], card: Path) -> str:
    """A hash of what a fold is made from, but its images: parameters, card, code, and the key of their ids."""
    code = {p.as_posix(): sha256(p) for p in sorted(Path("stages").rglob("*.py")) if p.name != Path(__file__).name}
    return hashlib.sha256(json.dumps([values, sha256(card), code, keyed("folds", "")], sort_keys=True).encode()).hexdigest()


def harvest(params: Params, key: str, kept: Path) -> None:
    """Keep what the pool needs of the fold that has just run: its predictions, and from its records what the report says."""
    models, reports = Path("models", params.dataset), Path("reports", params.dataset)
    infos = {r: read_json(models / r / "model.json") for r in REGIMES if (models / r / "model.json").exists()}
    data = read_json(reports / "data.json")
    about = {
        "key": key,
        "exposures": {r: info["exposures"] for r, info in infos.items()},
        "absent": {r: read_json(models / r / "absent.json")["reason"] for r in REGIMES if r not in infos},
        "how": report.candidate_how(infos[params.evaluate.candidate]["training"]),
        "start": infos["real"]["training"]["start_sha256"],
        "base": read_json(models / "base" / "base.json"),
        "warnings": data["warnings"],
        "shortcuts": [found["warning"] for found in data["shortcut"].values() if found["fires"]],
    }
    write_bytes(kept.with_suffix(".parquet"), (reports / "plots" / "predictions.parquet").read_bytes())
    write_json(kept.with_suffix(".json"), about)


def run_folds(preset: str) -> tuple[Params, list[Path]]:
    """Run what is left to run; the parameters, and where each fold is kept. Raises `SystemExit` when a stage fails."""
    values, params = read_preset(preset)
    require_images(params)
    kept = [CACHE / params.dataset / f"fold{k}" for k in range(params.split.test_folds)]
    if len(kept) < 2:
        raise UserError(f"presets/{preset}.yaml: split.test is {params.split.test}: for K folds set it to 1 / K")
    with alone() as hold:
        restore()
        own_lock, command = Path("reports", params.dataset, LOCK), f"make folds PRESET={preset}"
        keep_replaced(own_lock, command)
        for k, place in enumerate(kept):
            own = values | {"split": values["split"] | {"fold": k}}
            key = key_of(own, Path(f"data/{params.dataset}.yaml"))
            if place.with_suffix(".json").exists() and read_json(place.with_suffix(".json"))["key"] == key:
                print(f"fold {k + 1} of {len(kept)}: done before", flush=True)
                continue
            print(f"fold {k + 1} of {len(kept)}", flush=True)
            with preset_in_place(own, own_lock, command):
                dvc = [sys.executable, "-m", "dvc"]
                if rename_images(dvc, params, hold) or call([*dvc, "repro", "evaluate"], hold):
                    print(f"error: fold {k + 1} stopped; `make folds PRESET={preset}` goes on from its last finished stage.", file=sys.stderr)
                    raise SystemExit(1)
                harvest(params, key, place)
    return params, kept


def told_by_folds(texts: Sequence[Sequence[str]]) -> list[str]:
    """What the folds' reports say, once: what differs in numbers alone is one warning, told as the first fold does, and in how many folds it stands."""
    same: dict[str, list[str]] = {}
    for each in texts:
        for text in dict.fromkeys(each):
            same.setdefault(re.sub(r"\d[\d.,]*", "0", text), []).append(text)
    return [f"{told[0]} (said in {len(told)} of {len(texts)} folds; the numbers are of one of them)" for _, told in sorted(same.items())]


def pool(tables: Sequence[pd.DataFrame], classes: list[str], rare: list[str]) -> tuple[dict[str, NDArray[np.float64]], Truth]:
    """Probabilities (S, N, C) by regime over the test images of all folds, and their truth; a regime that a fold lacks is left out.

    `tables` as plots/predictions.parquet. Raises `UserError` when an image or a lesion was tested in two folds, or the seeds differ.
    """
    table = pd.concat([one.assign(test_fold=k) for k, one in enumerate(tables)], ignore_index=True)
    twice = table.groupby("group")["test_fold"].nunique()
    if (twice > 1).any():
        raise UserError(f"lesion {twice.index[twice > 1][0]!r} was tested in two folds: they are of different splits; remove {CACHE} and run again")
    common = set.intersection(*(set(one["regime"]) for one in tables))
    members = {}
    images = table[table["regime"] == "real"].drop_duplicates("id").sort_values("id")
    for regime in (r for r in (*WHAT, AA) if r in common):
        rows = table[table["regime"] == regime].sort_values(["seed", "id"])
        seeds = rows["seed"].nunique()
        if len(rows) != seeds * len(images):
            raise UserError(f"{regime}: the folds were trained with different seeds; remove {CACHE} and run again")
        members[regime] = rows[[f"p_{c}" for c in classes]].to_numpy(np.float64).reshape(seeds, len(images), len(classes))
    labels = np.asarray(images["label"].map(classes.index), np.int64)
    groups = np.unique(images["group"].to_numpy(str), return_inverse=True)[1]
    return members, Truth(labels, groups, classes, [classes.index(d) for d in sorted(rare)])


def shown(abouts: Sequence[Mapping[str, Any]], regime: str) -> dict[str, dict[str, dict[str, float]]]:
    """Exposures by seed, class and kind, the mean over the folds."""
    own = [about["exposures"]["real" if regime == "logit_adjust" else regime] for about in abouts]
    return {s: {c: {k: float(np.mean([one[s][c][k] for one in own])) for k in KINDS} for c in own[0][s]} for s in own[0]}


def main() -> None:
    """Run the folds, pool, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", help="a file of presets/, without .yaml")
    preset = parser.parse_args().preset
    params, kept = run_folds(preset)
    own, card = params.evaluate, read_card(f"data/{params.dataset}.yaml")
    abouts = [read_json(place.with_suffix(".json")) for place in kept]
    members, truth = pool([pd.read_parquet(place.with_suffix(".parquet")) for place in kept], card.class_names, params.rare)

    # --- the verdict
    boots = bootstrap(members, truth, own.bootstrap, own.seed)
    scored = {name: over_seeds(p, truth) for name, p in members.items()}
    seeds = params.train.seeds
    verdict = decide(own.candidate, seeds, truth.n_lesions, truth.rare, {n: mean for n, (mean, _) in scored.items()}, boots, own.min_seeds)
    verdict["folds"] = len(kept)
    metrics = {name: scored[name][0] for name in members if name != AA}
    details: dict[str, dict[str, Any]] = {
        name: {
            "regime": name,
            "what": WHAT[name],
            "folds": len(kept),
            "seeds": seeds,
            "n": {"images": len(truth.labels), "lesions": int(truth.n_lesions.sum())},
            "std_over_seeds": scored[name][1],
            "intervals": intervals(metrics[name], boots[name]),
            "classes": per_class(members[name], truth),
            "confusion": {"classes": truth.classes, "counts": confusion(members[name].mean(0), truth).tolist()},
            "exposures": shown(abouts, name),
        }
        for name in metrics
    }
    facts = report.Facts(
        title=card.title,
        dataset=params.dataset,
        phantom=card.phantom,
        answer=statement(verdict, int(truth.n_lesions[truth.rare].min()), own.min_seeds),
        n_lesions={c: int(n) for c, n in zip(truth.classes, truth.n_lesions, strict=True)},
        n_images=len(truth.labels),
        rare=sorted(params.rare),
        titles={name: c.title for name, c in card.classes.items()},
        bootstrap=own.bootstrap,
        base=abouts[0]["base"],
        warnings=told_by_folds([about["warnings"] for about in abouts]),
        shortcuts=told_by_folds([about["shortcuts"] for about in abouts]),
        start=abouts[0]["start"],
        absent={regime: reason for about in abouts for regime, reason in about["absent"].items()},
        how=abouts[0]["how"],
        made=f"`make folds PRESET={preset}`: {len(kept)} folds by lesion. Each lesion that `split.max_images` admits and that lies outside split `base` was "
        "tested once, by models whose judge, generator and calibration had not seen its fold; predictions are pooled, and the bootstrap resamples "
        "their lesions and seeds.",
    )

    # --- the reports
    out = Path("reports", params.dataset)
    for folder in ("metrics", "detail", "figures"):
        fresh(out / folder)
    for name in metrics:
        write_json(out / "metrics" / f"{name}.json", metrics[name])
        write_json(out / "detail" / f"{name}.json", details[name])
    write_json(out / "metrics.json", metrics[own.regime])
    write_json(out / "verdict.json", verdict)
    write_text(out / "verdict.md", report.document(verdict, metrics, details, facts))
    shutil.rmtree(out / "plots", ignore_errors=True)  # of the last fold alone
    about = f"{facts.answer}; {len(kept)} folds\n{facts.marks}"
    figures.draw_verdict(verdict, about, out / "figures" / "verdict.png")
    figures.draw_regimes({name: d["intervals"] for name, d in details.items()}, about, out / "figures" / "regimes.png")
    counts = {name: np.array(d["confusion"]["counts"]) for name, d in details.items()}
    figures.draw_confusion(counts, truth.classes, about, out / "figures" / "confusion.png")
    print(f"{facts.answer}: {out / 'verdict.md'}")


if __name__ == "__main__":
    run(main)
