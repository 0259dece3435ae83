"""Try settings of regimes on val: mixing ratio, selection, loss weights, and as many settings of the controls. Cal and test are not read.

In:  dataset card, refined images, split, base, synthetic images; params.yaml (block `study`: seeds, and the tries of each regime).
Out: REPORT_DIR/study.json, study.md (every try, its scores on val with intervals, the best of each regime), study.png (curves).
Each regime but logit_adjust is told at the best of the values of tau that its prior may be shifted by, the same for all.
Each try is kept in CACHE under a hash of what it was made from: a stopped study goes on where it was, a changed try is made alone.

    python -m stages.study CARD REFINED SPLIT BASE_DIR SYNTHETIC_DIR REPORT_DIR [--cache CACHE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from stages.classifier import mix
from stages.classifier.regime import adjusted, train_seeds, val_scores, worth
from stages.classifier.start import seen_by_start, start_weights
from stages.dataset.card import read_card_to_learn
from stages.dataset.groups import read_split, refuse_overlap
from stages.dataset.table import decode, read_table
from stages.metrics.classification import Truth
from stages.metrics.figures import draw_study
from stages.metrics.intervals import bootstrap, interval
from stages.runtime.checked import flow, read_yaml
from stages.runtime.errors import run
from stages.runtime.files import read_json, sha256, sha256_folder, write_json, write_text
from stages.runtime.launch import merge
from stages.runtime.markdown import markdown
from stages.runtime.params import LOGIT_ADJUST, Params, read_params

SCORES = {"rare_f1": "rare F1", "rare_ap": "rare AP", "macro_f1": "macro F1"}
DIGITS = 6


class Data(NamedTuple):
    """What the tries train on and are scored on: `hashes` of it all by name; `start` are the classifiers' first weights."""

    classes: list[str]
    split: pd.DataFrame
    images: pd.Series
    val: NDArray[np.uint8]
    labels: NDArray[np.int64]
    synthetic_dir: Path
    start: Path | None
    hashes: dict[str, str]


class Found(NamedTuple):
    """A try's `logits` (S, N, C) on val, one row a seed, and the class `prior` (C,) that its training ended on."""

    logits: NDArray[np.float32]
    prior: NDArray[np.float64]


def key_of(params: Params, regime: str, data: Data) -> str:
    """A hash of all that a try's result depends on."""
    block = params.model_dump()
    used = {name: block[name] for name in ("train", "mix", f"train_{regime}", "rare", "study")} | {"size": params.refine.size}
    used["study"] = block["study"]["seeds"]
    used["train"].pop("logit_taus")  # laid on what is trained once
    for untrained in ("aa_seeds", "logit_tau"):
        used["train_" + regime].pop(untrained, None)
    code = {p.name: sha256(p) for p in sorted((Path(__file__).parent / "classifier").glob("*.py"))}
    return hashlib.sha256(json.dumps([regime, used, data.hashes, code], sort_keys=True).encode()).hexdigest()[:24]


def train(params: Params, regime: str, data: Data, cache: Path) -> Found:
    """The classifiers of one try, trained unless CACHE holds what they said."""
    path = cache / f"{key_of(params, regime, data)}.npz"
    if not path.exists():
        synthetic_dir = data.synthetic_dir if regime in mix.SYNTHETIC else None
        rows, pool = mix.plan(params, regime, data.split, params.study.seeds, data.images, synthetic_dir)
        with tempfile.TemporaryDirectory() as scratch:
            learned = train_seeds(params, regime, data.classes, rows, pool, {"val": data.val}, data.labels, data.start, Path(scratch)).values()
        partial = path.with_suffix(".partial.npz")
        partial.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, logits=np.stack([one["logits"]["val"] for one in learned]), prior=next(iter(learned))["prior"])
        partial.rename(path)
    with np.load(path) as kept:
        return Found(kept["logits"], kept["prior"])


def attempt(values: Mapping[str, Any], regime: str, changes: Mapping[str, Any], data: Data, cache: Path) -> dict[float, NDArray[np.float32]]:
    """Logits (S, N, C) on val, by tau, of `regime` with its `study.start` and `changes` laid over `values`; logit_adjust shifts those of real."""
    trained = "real" if regime == LOGIT_ADJUST else regime
    untouched = {f"train_{trained}": {"logit_tau": 0.0}}
    start = values["study"]["start"].get(regime, {})
    params = Params.model_validate(merge(merge(merge(dict(values), start), dict(changes)), untouched))
    found = train(params, trained, data, cache)
    taus = [params.evaluate.logit_tau] if params.evaluate.logit_tau != "val" and regime == LOGIT_ADJUST else params.train.logit_taus
    return {tau: adjusted(found.logits, found.prior, tau) for tau in taus}


def score(logits: NDArray[np.float32], rows: Sequence[Mapping[str, float]], truth: Truth, params: Params) -> dict[str, Any]:
    """Per score: the mean over seeds, each seed's value, and for the two scores of the verdict the 95% interval (bootstrap of seeds and lesions).

    `logits` (S, N, C), and `rows`, one a seed, as `val_scores` gives them.
    """
    boots = bootstrap({"try": softmax(logits.astype(np.float64), axis=-1)}, truth, params.evaluate.bootstrap, params.evaluate.seed)["try"]
    told: dict[str, Any] = {}
    for name in SCORES:
        values = [row[name] for row in rows]
        told[name] = {"value": round(float(np.mean(values)), DIGITS), "seeds": values}
        if name in boots:
            low, high = interval(boots[name].mean(1))
            told[name] |= {"low": round(low, DIGITS), "high": round(high, DIGITS)}
    return told


def merit(rows: Sequence[Mapping[str, float]]) -> float:
    """What a try and its tau are chosen by: the mean over seeds of `worth`; `rows` are one a seed, as `val_scores` gives them."""
    return round(float(np.mean([worth(row) for row in rows])), DIGITS)


def document(title: str, found: list[dict[str, Any]], start: Mapping[str, Any], seeds: list[int], taus: int, truth: Truth) -> str:
    """study.md."""
    head = ["regime", "changed", "tau", *SCORES.values()]

    def row(one: Mapping[str, Any]) -> list[str]:
        told = [f"{s['value']:.3f}" + (f" ({s['low']:.3f} to {s['high']:.3f})" if "low" in s else "") for s in (one["val"][name] for name in SCORES)]
        return [one["regime"], flow(one["changes"])[1:-1] or "nothing", f"{one['logit_tau']:g}", *told]

    by_merit = itemgetter("merit")
    best = [max((one for one in found if one["regime"] == regime), key=by_merit) for regime in dict.fromkeys(one["regime"] for one in found)]
    tries, rare = len(found) // len(best), int(truth.n_lesions[truth.rare].sum())
    return (
        "\n\n".join(
            [
                f"# {title}: tries on val",
                f"Val alone: {int(truth.n_lesions.sum())} lesions, of them rare {rare}; {len(seeds)} seeds; {tries} tries a regime, "
                f"each told at the best of {taus} values of tau, which shifts its prior (logit_adjust: tau is the try). "
                "Means over seeds; 95% intervals from a bootstrap of seeds and lesions. The best of many tries looks better on val than it is.",
                "![Scores on val over the settings](study.png)",
                "## The best of each regime",
                "By the mean of rare F1 and rare AP.",
                markdown([head, *map(row, sorted(best, key=by_merit, reverse=True))]),
                "## Every try",
                "What a try is laid over, and what it does not name has:",
                "\n".join(f"- {regime}: `{flow(start[regime])[1:-1]}`" for regime in dict.fromkeys(one["regime"] for one in found)),
                markdown([head, *map(row, found)]),
                "Made by `python -m stages.study`; the tries, and what they start from, stand in params.yaml under `study`.",
            ]
        )
        + "\n"
    )


def main() -> None:
    """Read, try, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("card", "refined", "split", "base_dir", "synthetic_dir", "report_dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".cache/study"))
    args = parser.parse_args()
    params, values = read_params(), read_yaml("params.yaml")
    card, split = read_card_to_learn(args.card), read_split(args.split)
    determinism.fix(params.threads)
    start = start_weights(args.base_dir, params.train.backbone)
    refuse_overlap(seen_by_start(args.base_dir, start), split, f"base {args.base_dir}")
    images = read_table(args.refined, ["id", "image"]).set_index("id")["image"]
    val = split[split["split"] == "val"]
    hashes = {
        "refined": sha256_folder(args.refined),
        "split": sha256(args.split),
        "base": read_json(args.base_dir / "base.json")["hash"],
        **{d: sha256_folder(args.synthetic_dir / d) for d in sorted(params.rare)},
    }
    labels = np.asarray(val["label"].map(card.class_names.index), np.int64)
    shown = decode(images.loc[val["id"]], params.refine.size)
    data = Data(card.class_names, split, images, shown, labels, args.synthetic_dir, start, hashes)
    truth = Truth(labels, np.unique(val["group"], return_inverse=True)[1], data.classes, [data.classes.index(d) for d in sorted(params.rare)])

    found = []
    for regime, tries in params.study.tries.items():
        for number, changes in enumerate(tries, start=1):
            print(f"{regime}, {number} of {len(tries)}: {flow(changes)}", flush=True)
            logits = attempt(values, regime, changes, data, args.cache)
            rows = {tau: [val_scores(seed, labels, truth.rare) for seed in shifted] for tau, shifted in logits.items()}
            tau = max(rows, key=lambda tau: merit(rows[tau]))
            own = {"logit_tau": tau, "merit": merit(rows[tau]), "val": score(logits[tau], rows[tau], truth, params)}
            found.append({"regime": regime, "changes": changes} | own)
    write_json(args.report_dir / "study.json", {"seeds": params.study.seeds, "n_val_lesions": int(truth.n_lesions.sum()), "tries": found})
    write_text(args.report_dir / "study.md", document(card.title, found, params.study.start, params.study.seeds, len(params.train.logit_taus), truth))
    draw_study(found, params.study.start, f"{card.title}: tries on val", args.report_dir / "study.png")


if __name__ == "__main__":
    run(main)
