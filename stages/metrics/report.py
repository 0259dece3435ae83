"""The evaluation for a person: verdict.md and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.classifier.mix import KINDS
from stages.metrics import figures
from stages.metrics.classification import LEAST_LESIONS
from stages.metrics.verdict import ORACLE, WHAT, aa_statement, difference_rows, number, oracle_statement, score_rows
from stages.runtime.markdown import markdown

SMOKE = "SMOKE RUN: checks the machinery, says nothing about synthesis"
PHANTOM = "drawings, not patients; the base knew this renderer"
UNKNOWN = "pre-training set unknown, may contain public test images"


@dataclass(frozen=True)
class Facts:
    """What the report says besides scores. `titles` is what the card calls the classes, `base` is base.json, `start` what the classifiers
    started from, `warnings` those of the data report, `shortcuts` those of them that say that a model can score well without seeing the
    disease, `absent` why a regime was not trained, `how` (`candidate_how`) what else the candidate's training has, `made` by what command
    this was made."""

    title: str
    dataset: str
    phantom: bool
    answer: str
    n_lesions: dict[str, int]
    n_images: int
    rare: list[str]
    titles: Mapping[str, str]
    bootstrap: int
    base: Mapping[str, Any]
    warnings: Sequence[str]
    shortcuts: Sequence[str]
    start: str
    absent: Mapping[str, str]
    how: str
    made: str

    @property
    def smoke(self) -> bool:
        """The smoke data set is too small to say anything."""
        return self.dataset == "smoke"

    @property
    def marks(self) -> str:
        """What stands in the title of every figure."""
        return "; ".join([self.title, *([SMOKE] if self.smoke else []), *([PHANTOM] if self.phantom else [])])


def candidate_how(training: Mapping[str, Any]) -> str:
    """What sets the candidate's training (model.json) apart besides its images, in words; empty when nothing does."""
    told = [
        f"class weights in its loss (power {training['class_weighting']:g})" if training["class_weighting"] else "",
        "RandAugment" if training["randaugment"] else "",
        f"logit adjustment (tau {'chosen on val' if training['logit_tau'] == 'val' else training['logit_tau']})" if training["logit_tau"] else "",
        f"real images weighing {training['real_weight']:g} times a synthetic one" if training.get("real_weight", 1) != 1 else "",
        f"{training['repeats']} repeats of each rare class's real images beside its synthetic ones" if training.get("repeats") else "",
        f"its synthetic images chosen as `{training['select']}`" if training.get("select", "random") != "random" else "",
    ]
    return ", ".join(part for part in told if part)


def rare_exposures(detail: Mapping[str, Any], rare: Sequence[str], kind: str) -> float:
    """How many images of `kind` of the rare classes a run was shown, repeats counted; the mean over the regime's seeds."""
    return float(np.mean([sum(detail["exposures"][str(s)][d][kind] for d in rare) for s in detail["seeds"]]))


def exposure_rows(details: Mapping[str, Mapping[str, Any]], rare: Sequence[str]) -> list[list[str]]:
    """Per regime: what it is, rare images shown by kind, and the score intervals."""
    scores = {"rare_f1": "rare F1, 95%", "rare_ap": "rare AP, 95%", "macro_f1": "macro F1, 95%", "accuracy": "accuracy, 95%"}
    rows = [["regime", "real rare images shown in training", "synthetic ones", "the oracle's", *scores.values(), "what it is"]]
    for name, detail in details.items():
        shown = [f"{rare_exposures(detail, rare, kind):.0f}" for kind in KINDS]
        bounds = [f"{number(i['low'])} to {number(i['high'])}" for i in (detail["intervals"][score] for score in scores)]
        rows.append([name, *shown, *bounds, WHAT[name]])
    return rows


def caveats(verdict: Mapping[str, Any], facts: Facts) -> list[str]:
    """What a reader must know before believing the answer."""
    widest = max((e["high"] - e["low"]) / 2 for found in verdict["controls"].values() if found for e in found.values())
    few = [f"{d} ({facts.n_lesions[d]})" for d in facts.rare if facts.n_lesions[d] < LEAST_LESIONS]
    lines = [
        f"The intervals reach up to {widest:.3f} to either side: a smaller gain than that could easily be missed.",
        "The candidate is `evaluate.candidate` of params.yaml; no program can check that it was set before test was read.",
        f"{len(verdict['seeds'])} seed(s) tell little of how much seeds vary, and each disease has one LoRA, whose own variation no interval holds: "
        "a bound that only just misses zero is weak.",
        *(f"Not trained: {name} ({reason})." for name, reason in sorted(facts.absent.items()) if name != ORACLE),
        "Scores at argmax are means over seeds. logit_adjust has no temperature of its own, so its ECE is no rival to the others'.",
    ]
    if few:
        lines.append(f"Too few test lesions for any claim about sensitivity (30 are needed): {', '.join(few)}.")
    if facts.phantom:
        lines.append(f"Phantoms: {PHANTOM}. Val, cal and test were drawn with set counts per class; the long tail lives in train.")
    if not facts.base["known_groups"]:
        lines.append(f"Base model {facts.base['source']}: {UNKNOWN}.")
    if facts.start == "timm pretrained":
        lines.append(f"The classifiers started from timm's weights: {UNKNOWN}.")
    if len(facts.n_lesions) - len(facts.rare) < 2:
        lines.append("There is one common class: it cannot train a backbone, so the classifiers start from weights that never saw such images.")
    return lines + [f"Data: {warning}" for warning in facts.warnings if warning not in facts.shortcuts]


def document(
    verdict: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    details: Mapping[str, Mapping[str, Any]],
    facts: Facts,
    external: Sequence[str] = (),
) -> str:
    """verdict.md: the answer in the first line, then the picture, the tables, the sections on `external` sets, and what limits them."""
    seeds, rare = verdict["seeds"], ", ".join(f"{d} ({facts.n_lesions[d]} lesions)" for d in facts.rare)
    ran, how = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}", f", with {facts.how}" if facts.how else ""
    parts = [
        f"# {SMOKE + '. ' if facts.smoke else ''}{facts.title}: {facts.answer}",
        *(f"**Before you read on: {text}. No score below is proof that the disease is seen.**" for text in facts.shortcuts),
        f"Candidate `{verdict['candidate']}`{how}, {ran}, {verdict['n_test_lesions']} test lesions ({facts.n_images} images), of them rare: {rare}.",
        "![The candidate against each control](figures/verdict.png)",
        "## The candidate against each control",
        "Difference in the mean over seeds, with a paired 95% interval from a bootstrap of seeds and lesions (stratified by class, "
        f'{facts.bootstrap} resamples). "Helps" needs both lower bounds over zero against every control, at least the set number of seeds, '
        f"and {LEAST_LESIONS} test lesions of each rare class.",
        markdown(difference_rows(verdict)),
        aa_statement(verdict),
        oracle_statement(verdict, facts.absent.get(ORACLE)),
        "## The regimes",
        markdown(score_rows(metrics)),
        "Rare F1 is the unweighted mean of the rare classes' one-vs-rest F1 at argmax; rare AP that of their average precision.",
        markdown(exposure_rows(details, facts.rare)),
        *external,
        "## What limits this answer",
        "\n".join(f"- {line}" for line in caveats(verdict, facts)),
        "## How it was made",
        facts.made,
    ]
    return "\n\n".join(parts) + "\n"


def draw(
    folder: Path, verdict: Mapping[str, Any], details: Mapping[str, Mapping[str, Any]], tables: Mapping[str, pd.DataFrame], facts: Facts
) -> None:
    """FOLDER/figures/*.png: numbers only, no image of a patient."""
    out = folder / "figures"
    figures.draw_verdict(verdict, f"{facts.answer}\n{facts.marks}", out / "verdict.png")
    figures.draw_regimes({name: d["intervals"] for name, d in details.items()}, facts.marks, out / "regimes.png")
    figures.draw_curves(tables["roc"], "fpr", "tpr", facts.titles, f"ROC, mean over seeds\n{facts.marks}", out / "roc.png", diagonal=True)
    figures.draw_curves(tables["pr"], "recall", "precision", facts.titles, f"Precision and recall, mean over seeds\n{facts.marks}", out / "pr.png")
    figures.draw_curves(tables["reliability"], "confidence", "accuracy", {}, f"Reliability\n{facts.marks}", out / "reliability.png", diagonal=True)
    counts = {name: np.array(d["confusion"]["counts"]) for name, d in details.items()}
    figures.draw_confusion(
        counts, sorted(facts.n_lesions), f"Ensemble of the seeds, calibrated as the page has it\n{facts.marks}", out / "confusion.png"
    )
