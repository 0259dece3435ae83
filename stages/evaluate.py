"""Test every regime on the sealed real images, and give the verdict.

In:  dataset card, refined images, split, models (base, judge, lora, a folder per regime), synthetic images, REPORT_DIR/data.json; for each
     set of evaluate.external what stage `external` left of it, EXTERNAL_DIR/<set>.
Out: in REPORT_DIR: metrics.json (the regime evaluate.regime), metrics/<regime>.json, detail/<regime>.json, verdict.json, verdict.md,
     figures/*.png, plots/*.csv, plots/predictions.parquet (every seed's probabilities) and plots/contact.png (images: not for git);
     detail/external/<set>/<regime>.json.
Every law is checked before a test image is shown to a model (stages/metrics/laws.py).

    python -m stages.evaluate CARD REFINED SPLIT MODELS_DIR SYNTHETIC_DIR REPORT_DIR --external EXTERNAL_DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.classifier.calibration import calibrated
from stages.classifier.mix import SYNTHETIC
from stages.classifier.predictor import Predictor, load, tempered, why_absent
from stages.classifier.regime import adjusted
from stages.dataset.card import Card, read_card
from stages.dataset.groups import read_seen, read_split, refuse_overlap
from stages.dataset.table import decode, read_table, write_table
from stages.imaging.sheet import save_sheet
from stages.metrics import curves, external, report
from stages.metrics.classification import Truth, at_thresholds, confusion, coverage, over_seeds, per_class, proportion, scores, subgroups
from stages.metrics.intervals import bootstrap, intervals, with_interval
from stages.metrics.laws import check_budgets, check_judge, check_origin, check_pixels, check_sealed
from stages.metrics.verdict import AA, WHAT, decide, statement
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, read_json, sha256, write_json, write_text
from stages.runtime.parallel import Tick, each
from stages.runtime.params import REGIMES, Params, read_params

Floats = NDArray[np.floating[Any]]
DIGITS = 6
SHEET = 8  # images a row of the contact sheet


def check_names(params: Params, card: Card) -> None:
    """`UserError` when params name a class, candidate or regime that cannot be evaluated."""
    unknown = sorted(set(params.rare) - set(card.classes))
    if unknown:
        raise UserError(f"params.yaml: rare names {', '.join(unknown)}, which the card does not have; it has {', '.join(card.class_names)}")
    own = params.evaluate
    if own.candidate not in SYNTHETIC:
        raise UserError(f"params.yaml: evaluate.candidate: {own.candidate!r} is not one of {', '.join(SYNTHETIC)}")
    if own.regime not in WHAT:
        raise UserError(f"params.yaml: evaluate.regime: {own.regime!r} is not one of {', '.join(WHAT)}")


def make_truth(test: pd.DataFrame, classes: list[str], rare: list[str]) -> Truth:
    """The truth of the test rows (label, group); `UserError` when a rare class has no test image or all images are of one class."""
    labels = np.array([classes.index(label) for label in test["label"]], np.int64)
    missing = sorted(set(rare) - set(test["label"]))
    if missing or test["label"].nunique() < 2:
        raise UserError(f"test has no image of {', '.join(missing) or 'a second class'}: raise split.test or take it off `rare` in params.yaml")
    return Truth(labels, np.unique(test["group"].to_numpy(str), return_inverse=True)[1], classes, [classes.index(d) for d in sorted(rare)])


def predict(predictors: dict[str, Predictor], images: NDArray[np.uint8], tau: float | str, threads: int) -> dict[str, NDArray[np.float64]]:
    """Probabilities (S, N, C) per regime, "logit_adjust" and, where real has second seeds, "aa".

    logit_adjust takes tau log(prior of train) off real's logits, each seed's best tau on val where `tau` is "val". `threads` processes share the regimes.
    """

    def show(predictor: Predictor, tick: Tick) -> NDArray[np.float32]:
        logits = predictor.logits(images, [*predictor.seeds, *predictor.info["aa_seeds"]])
        tick(1)
        return logits

    members: dict[str, NDArray[np.float64]] = {}
    shown = each(show, list(predictors.values()), threads, "test", "regime", len(predictors))
    for (regime, predictor), logits in zip(predictors.items(), shown, strict=True):
        info, seeds = predictor.info, list(predictor.seeds)
        members[regime] = tempered(logits[: len(seeds)], info, seeds)
        if regime == "real":
            prior = np.array([info["prior_train"][c] for c in predictor.classes])
            taus = [float(info["val_tau"][str(s)] if tau == "val" else tau) for s in seeds]
            shifted = [adjusted(one, prior, own) for one, own in zip(logits[: len(seeds)], taus, strict=True)]
            members["logit_adjust"] = tempered(np.stack(shifted), info, seeds)
            if info["aa_seeds"]:
                members[AA] = tempered(logits[len(seeds) :], info, info["aa_seeds"])
    return members


def generator_counts(synthetic: pd.DataFrame) -> dict[str, Any]:
    """Per disease: attempts, accepted ones, and rejected ones by reason."""
    return {
        str(disease): {
            "attempts": len(rows),
            "accepted": int(rows["accepted"].sum()),
            "rejected": {str(k): int(n) for k, n in rows.loc[~rows["accepted"], "reason"].value_counts().sort_index().items()},
        }
        for disease, rows in synthetic.groupby("label")
    }


def assess(
    name: str, members: Floats, truth: Truth, boots: Mapping[str, Floats], attributes: pd.DataFrame, info: dict[str, Any], synthetic: pd.DataFrame
) -> tuple[dict[str, float | int], dict[str, Any]]:  # fmt: skip
    """What metrics/ and detail/ say of regime `name`, from its probabilities (S, N, C), bootstrap distributions and record `info` (model.json)."""
    (metrics, std), ensemble = over_seeds(members, truth), members.mean(0)
    lesion, by_lesion = truth.by_lesion(ensemble)
    classes = per_class(members, truth)
    bounds = intervals(metrics, boots)
    for k, c in enumerate(truth.rare):
        disease = truth.classes[c]
        bounds |= {f"f1_{disease}": with_interval(classes[disease]["f1"], boots["rare_f1"][:, k])}
        bounds |= {f"ap_{disease}": with_interval(classes[disease]["ap"], boots["rare_ap"][:, k])}
    # What page and predict say; logit_adjust has no calibration, thresholds and quantiles of its own.
    told = ensemble if name == "logit_adjust" else calibrated(ensemble, info)
    detail = {
        "regime": name,
        "what": WHAT[name],
        "seeds": info["seeds"],
        "n": {"images": len(truth.labels), "lesions": int(truth.n_lesions.sum())},
        "std_over_seeds": std,
        "ensemble": {k: round(v, DIGITS) for k, v in scores(ensemble, truth).items()},
        "ensemble_by_lesion": {k: round(v, DIGITS) for k, v in scores(lesion, by_lesion).items()},
        "intervals": bounds,
        "classes": classes,
        "subgroups": subgroups(told, truth, attributes),
        "confusion": {"classes": truth.classes, "counts": confusion(told, truth).tolist()},
        "exposures": info["exposures"],
    }
    if name != "logit_adjust":
        detail |= {"calibrated": {k: round(v, DIGITS) for k, v in scores(told, truth).items()}}
        detail |= {"thresholds": at_thresholds(told, truth, info["thresholds"]), "conformal": coverage(ensemble, truth, info["conformal"])}
    if any(kinds["synthetic"] for shown in info["exposures"].values() for kinds in shown.values()):
        detail["generator"] = generator_counts(synthetic)
    return metrics, detail


def curve_tables(members: Mapping[str, Floats], truth: Truth) -> dict[str, pd.DataFrame]:
    """The tables under plots/: roc, pr and reliability with a column regime, confusion with a column per regime, one that was not trained too."""
    made = {"roc": curves.roc, "pr": curves.precision_recall, "reliability": curves.calibration}
    tables = {}
    for name, make in made.items():
        tables[name] = pd.concat([make(members[r], truth).assign(regime=r) for r in WHAT if r in members], ignore_index=True)
    names = np.array(truth.classes)
    guesses = {r: names[members[r].mean(0).argmax(1)] if r in members else "not trained" for r in WHAT}
    return {**tables, "confusion": pd.DataFrame({"actual": names[truth.labels], **guesses})}


def prediction_table(test: pd.DataFrame, members: Mapping[str, Floats], infos: Mapping[str, Mapping[str, Any]], classes: list[str]) -> pd.DataFrame:
    """A row per regime, seed and test image: id, group, label, regime, seed, p_<class>. `test` has id, group, label."""
    parts = []
    for regime, of_seeds in members.items():
        info = infos.get(regime, infos["real"])
        for seed, p in zip(info["aa_seeds"] if regime == AA else info["seeds"], of_seeds, strict=True):
            columns = {f"p_{c}": p[:, k] for k, c in enumerate(classes)}
            parts.append(test[["id", "group", "label"]].assign(regime=regime, seed=seed, **columns))
    return pd.concat(parts, ignore_index=True)


class Measured(NamedTuple):
    """What one set of test images tells of every regime: probabilities (S, N, C), metrics/ and detail/ by regime, and `decide` on them."""

    truth: Truth
    members: dict[str, NDArray[np.float64]]
    metrics: dict[str, dict[str, float | int]]
    details: dict[str, dict[str, Any]]
    verdict: dict[str, Any]


def measure(
    test: pd.DataFrame, images: NDArray[np.uint8], rare: list[str], predictors: dict[str, Predictor], params: Params, card: Card,
    synthetic: pd.DataFrame,
) -> Measured:  # fmt: skip
    """Show the rows of `test` (label, group, attributes), drawn in `images` (N, H, W, 3), to every regime; the scores are over `rare`."""
    own, infos = params.evaluate, {regime: predictor.info for regime, predictor in predictors.items()}
    truth = make_truth(test, card.class_names, rare)
    members = predict(predictors, images, own.logit_tau, params.threads)
    boots = bootstrap(members, truth, own.bootstrap, own.seed)
    attributes = test[[a for a in sorted(card.attributes) if a in test]].reset_index(drop=True)
    assessed = {r: assess(r, members[r], truth, boots[r], attributes, infos.get(r, infos["real"]), synthetic) for r in WHAT if r in members}
    metrics, details = {r: found[0] for r, found in assessed.items()}, {r: found[1] for r, found in assessed.items()}
    means = metrics | ({AA: over_seeds(members[AA], truth)[0]} if AA in members else {})
    refusing = [regime for regime, predictor in predictors.items() if "ood" in predictor.info]

    def refuse(regime: str, tick: Tick) -> NDArray[np.bool_]:
        refused = np.array([reason is not None for reason in predictors[regime].refusals(images)])
        tick(1)
        return refused

    found = each(refuse, refusing, params.threads, "refusals", "regime", len(refusing))
    for regime, refused in zip(refusing, found, strict=True):  # the scores above are over all test images, those refused too
        details[regime]["refused"] = {c: proportion(refused[truth.labels == i]) for i, c in enumerate(card.class_names)}
    verdict = decide(own.candidate, infos["real"]["seeds"], truth.n_lesions, truth.rare, means, boots, own.min_seeds)
    return Measured(truth, members, metrics, details, verdict)


def contact_sheet(
    split: pd.DataFrame, refined: pd.DataFrame, synthetic: pd.DataFrame, rare: list[str], size: int, marks: str
) -> dict[str, NDArray[np.uint8]]:
    """Rows by title: per rare disease up to 8 real train images and 8 accepted synthetic ones, evenly spaced over their ids."""

    def some(rows: pd.DataFrame) -> NDArray[np.uint8]:
        rows = rows.sort_values("id")
        return decode(rows["image"].iloc[np.unique(np.linspace(0, len(rows) - 1, min(SHEET, len(rows))).astype(int))], size)

    train = refined[refined["id"].isin(split.loc[split["split"] == "train", "id"])]
    sheet = {}
    for d in sorted(rare):
        sheet[f"{d}, real, from train. {marks}"] = some(train[train["label"] == d])
        sheet[f"{d}, AI-generated. {marks}"] = some(synthetic[synthetic["accepted"] & (synthetic["label"] == d)])
    return sheet


def main() -> None:
    """Check the laws, predict, score, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("card", "refined", "split", "models_dir", "synthetic_dir", "report_dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--external", type=Path, metavar="EXTERNAL_DIR", help="needed where evaluate.external names a set")
    args = parser.parse_args()
    params, card, split = read_params(), read_card(args.card), read_split(args.split)
    check_names(params, card)
    determinism.fix(params.threads)
    own = params.evaluate
    if own.external and args.external is None:
        raise UserError(f"params.yaml: evaluate.external names {', '.join(own.external)}: give the folder of stage external with --external")

    # --- the laws
    refined = read_table(args.refined)
    columns = ["id", "label", "accepted", "reason", "image"]
    synthetic = pd.concat([read_table(args.synthetic_dir / d, columns) for d in sorted(params.rare)], ignore_index=True)
    check_sealed(split, refined[["id", "label", "group"]], synthetic["id"])
    helpers = ("base", "judge", *(f"lora/{d}" for d in sorted(params.rare)))
    absent = {regime: reason for regime in REGIMES if (reason := why_absent(args.models_dir / regime))}
    trained = [regime for regime in REGIMES if regime not in absent]
    seen = {str(args.models_dir / model): read_seen(args.models_dir / model) for model in (*helpers, *trained)}
    for model in helpers:
        refuse_overlap(seen[str(args.models_dir / model)], split, str(args.models_dir / model))
    if gone := absent.keys() & {"real", own.candidate, own.regime}:
        name = min(gone)
        raise UserError(f"{name} was not trained ({absent[name]}): name another regime in evaluate.candidate and evaluate.regime, or enable it")
    predictors = {regime: load(args.models_dir / regime, split) for regime in trained}
    infos = {regime: predictor.info for regime, predictor in predictors.items()}
    check_origin(infos, sha256(args.split))
    check_budgets(infos)
    check_judge(read_json(args.models_dir / "judge" / "judge.json"), infos)
    test = split[split["split"] == "test"].merge(refined.drop(columns=["label", "group", "split"], errors="ignore"), on="id").sort_values("id")
    size = predictors["real"].size
    images, drawn = decode(test["image"], size), decode(synthetic.loc[synthetic["image"].notna(), "image"], size)
    check_pixels(images, drawn)
    others = [external.read_external(args.external, name, params.rare) for name in sorted(own.external)]
    pictures = [decode(other.table["image"], size) for other in others]
    for other, shown in zip(others, pictures, strict=True):
        external.check_external(other, refined, synthetic["id"], seen)
        check_pixels(shown, drawn, f"the external set {other.name}")

    # --- the test
    truth, members, metrics, details, verdict = measure(test, images, params.rare, predictors, params, card, synthetic)
    outside = {
        other.name: measure(other.table, shown, other.rare(params.rare), predictors, params, card, synthetic)
        for other, shown in zip(others, pictures, strict=True)
    }
    if others:
        verdict["external"] = {
            other.name: external.entry(other, found.verdict, found.details, found.metrics)
            for other, found in zip(others, outside.values(), strict=True)
        }
    data = read_json(args.report_dir / "data.json")
    facts = report.Facts(
        title=card.title,
        dataset=params.dataset,
        phantom=card.phantom,
        answer=statement(verdict, int(truth.n_lesions[truth.rare].min()), own.min_seeds),
        n_lesions={c: int(n) for c, n in zip(card.class_names, truth.n_lesions, strict=True)},
        n_images=len(test),
        rare=sorted(params.rare),
        titles={name: c.title for name, c in card.classes.items()},
        bootstrap=own.bootstrap,
        base=read_json(args.models_dir / "base" / "base.json"),
        warnings=data["warnings"],
        shortcuts=[found["warning"] for found in data["shortcut"].values() if found["fires"]],
        start=infos["real"]["training"]["start_sha256"],
        absent=absent,
        made="`make reproduce`, with `PRESET=` where a preset holds the settings (stage evaluate). "
        "Everything else that was measured, with its n, lies in `detail/`; curves: `dvc plots show`. "
        "`reports/experiments.md` lists the evaluations; whether the synthetic images are copies, `audit.md` says.",
        how=report.candidate_how(infos[own.candidate]["training"]),
    )

    sections = [external.section(found, params.rare) for found in verdict.get("external", {}).values()]

    # --- the reports
    for folder in ("metrics", "detail", "figures", "plots"):
        fresh(args.report_dir / folder)
    for name in metrics:
        write_json(args.report_dir / "metrics" / f"{name}.json", metrics[name])
        write_json(args.report_dir / "detail" / f"{name}.json", details[name])
        for abroad, found in outside.items():
            write_json(args.report_dir / "detail" / "external" / abroad / f"{name}.json", found.details[name])
    write_json(args.report_dir / "metrics.json", metrics[own.regime])
    write_json(args.report_dir / "verdict.json", verdict)
    write_text(args.report_dir / "verdict.md", report.document(verdict, metrics, details, facts, sections))
    tables = curve_tables(members, truth)
    for name, table in tables.items():
        write_text(args.report_dir / "plots" / f"{name}.csv", table.to_csv(index=False))
    write_table(args.report_dir / "plots" / "predictions.parquet", prediction_table(test, members, infos, card.class_names))
    report.draw(args.report_dir, verdict, details, tables, facts)
    sheet = contact_sheet(split, refined, synthetic, params.rare, size, facts.marks)
    save_sheet(sheet, args.report_dir / "plots" / "contact.png", generated=True)


if __name__ == "__main__":
    run(main)
