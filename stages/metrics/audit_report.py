"""The audit for a person: what stops it, what to be warned of, and audit.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.classifier.encoders import PUBLISHED
from stages.dataset.card import Card
from stages.metrics.generative import FD_IMAGES, NEIGHBOURS
from stages.metrics.memorisation import LEAST, LEAST_LESIONS, MAX_AUC, NO_RESERVE, QUANTILE
from stages.metrics.report import PHANTOM, SMOKE
from stages.runtime.markdown import markdown
from stages.runtime.params import Params

DIGITS = 6
COVERED = 0.75  # of what other real images reach of the real ones, under which a mode is said to leave out kinds of them
ALIKE = 0.5  # of the real images' diversity, under which a mode is said to repeat itself
Found = Mapping[str, Any]


def rounded(value: Any) -> Any:
    """`value` with every float in it rounded to `DIGITS` and its numpy scalars as Python's."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return round(value, DIGITS) if isinstance(value, float) else value


def stops(results: Found, flaws: Mapping[str, Sequence[str]], max_copy_rate: float) -> list[str]:
    """Why the pipeline must not go on, in words; empty when nothing was found. What is underpowered warns, and does not stop."""
    said = [f"{disease}: {text}" for disease, each in flaws.items() for text in each]
    for disease, modes in results.items():
        for mode, found in modes.items():
            excess = found["copy_excess"]
            if excess["low"] is not None and excess["low"] > max_copy_rate and not excess["underpowered"]:
                said.append(f"{disease}, {mode}: {interval(excess)} more copies of training images than real images give by chance; the lower bound exceeds "
                            f"audit.max_copy_rate ({max_copy_rate})")  # fmt: skip
        known = next(iter(modes.values()))["membership_auc"]
        if known["low"] is not None and known["low"] > MAX_AUC and not known["underpowered"]:
            said.append(f"{disease}: the LoRA tells its training images from others, AUC {interval(known)}; the lower bound exceeds {MAX_AUC}")
    return said


def warnings(results: Found, whole: Found, wanted: int) -> list[str]:
    """What a reader must know besides: unusable draws, modes that repeat themselves, classes that the scorer does not recognise, copies below power."""
    said = []
    if without := [disease for disease, modes in results.items() if next(iter(modes.values()))["null_from"] != "reserve"]:
        said.append(
            f"no reserve images of {', '.join(without)}, so nothing tells how far real images differ among themselves; copies and membership are held "
            "against those of val, on which the LoRA's step was chosen"
        )
    for disease, modes in results.items():
        known = next(iter(modes.values()))["membership_auc"]
        if known["low"] is not None and known["low"] > 0.5:
            power = ", from too few lesions to stop the run" if known["underpowered"] else ""
            said.append(
                f"{disease}: the LoRA tells its training images from others, AUC {interval(known)}{power}: fewer steps or a lower rank may memorise less"
            )
        for mode, found in modes.items():
            said += [f"{disease}, {mode}: {n} drawn image(s) are {what}" for what, n in found["unusable"].items() if n]
            if found["quality"] != NO_RESERVE:
                first, own = next(iter(found["quality"].items()))
                after = own["after"]
                if after.get("diversity", 1) < ALIKE:
                    said.append(f"{disease}, {mode}: accepted images resemble one another, {after['diversity']:.2f} of the distances among real ones")
                floor = whole["floors"][disease][first].get("coverage")  # none where the floor has too few images
                if floor is not None and after.get("coverage", 1) < COVERED * floor:
                    said.append(
                        f"{disease}, {mode}: accepted images reach {after['coverage']:.0%} of the real ones; other real images reach {floor:.0%}"
                    )
            excess = found["copy_excess"]
            if excess["low"] is not None and excess["low"] > 0:
                power = ", from too few images to stop the run" if excess["underpowered"] else ""
                said.append(f"{disease}, {mode}: more copies of training images than chance gives, {interval(excess)}{power}")
    if "generator" in whole:
        if whole["per_class"] < wanted:
            said.append(f"the generator's accuracy rests on {whole['per_class']} images a class, not {wanted}: no more were accepted of the rarest")
        for name, own in whole["generator"]["per_class"].items():
            real = whole["real"]["per_class"][name]
            if own["high"] < real["low"]:
                said.append(f"synthetic {name} is named right less often ({interval(own)}) than real {name} ({interval(real)})")
    return said


def interval(found: Found) -> str:
    """0.12 (0.05 to 0.20)."""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _quality_row(name: str, found: Found) -> list[str]:
    kid = found["kid"]
    if not isinstance(kid, Mapping):
        return [name, str(found["n"]), *([str(kid)] + ["-"] * 6)]
    shown = [_number(found[key]) for key in ("precision", "recall", "density", "coverage", "diversity")]
    return [name, str(found["n"]), f"{kid['value']:.3f} ({kid['low']:.3f} to {kid['high']:.3f})", _number(found["fd"]), *shown]


def quality_section(disease: str, modes: Found, floors: Found) -> list[str]:
    """A table per encoder: the floor, then each mode before and after the filter."""
    if not floors:
        return [f"Quality: {NO_RESERVE}."]
    parts = []
    for encoder, floor in floors.items():
        rows = [
            ["images", "n", "KID (95%)", "FD", "precision", "recall", "density", "coverage", "diversity"],
            _quality_row("real against real", floor),
        ]
        for mode, found in modes.items():
            rows += [_quality_row(f"{mode}, {when} the filter", found["quality"][encoder][when]) for when in ("before", "after")]
        parts += [f"Encoder: {encoder}.", markdown(rows)]
    return parts


def published_section(told: Found) -> list[str]:
    """The scores that papers report, of real and accepted images; nothing where no weights are at hand."""
    scores = [score for score in PUBLISHED if any(score in own for own in told.values())]
    if not scores:
        return []
    rows = [["accepted images", "n", *scores], *([name, str(own["n"]), *(f"{own[score]:.3f}" for score in scores)] for name, own in told.items())]
    return ["In the units of publications:", markdown(rows)]


def copies_section(modes: Found) -> list[str]:
    """Copies, authenticity and membership, in words and numbers."""
    rows = [["mode", "candidates", "null", "copies beyond the null (95%)", "which says", "authentic (95%)", "authentic, null"]]
    for mode, found in modes.items():
        excess, own = found["copy_excess"], found["auth_pct"]
        if excess["value"] is None:
            rows.append([mode, str(excess["n"]), "0", "-", excess["note"]])
        else:
            says = "copies above the null" if excess["low"] > 0 else "no evidence above the null"
            says += ", underpowered" if excess["underpowered"] else ""
            rows.append([mode, str(excess["n"]), str(excess["n_null"]), interval(excess), says])
        rows[-1] += [own["note"] if own["value"] is None else interval(own), _number("-" if own.get("null") is None else own["null"])]
    known = next(iter(modes.values()))["membership_auc"]
    if known["value"] is None:
        said = f"Membership: {known['note']}."
    else:
        says = "above the null" if known["low"] > 0.5 else "no evidence above the null"
        said = (
            f"Does the LoRA know its training images? AUC {interval(known)}, where 0.5 is no knowledge: {says}. From {known['n']} training images of "
            f"{known['lesions']} lesions and {known['n_null']} real images it never saw; with so few lesions, nothing under {known['detectable']:.2f} could be "
            f"detected reliably{' (underpowered)' if known['underpowered'] else ''}."
        )
    return [markdown(rows), said]


def accuracy_section(whole: Found) -> list[str]:
    """The generator's scores beside the real images', and recall per class."""
    if "generator" not in whole:
        return [f"Not computed: {whole['note']}."]
    ours, real = whole["generator"], whole["real"]
    names = {"accuracy": "accuracy"} | {f"macro_{key.lower()}": f"{key}, mean over classes" for key in ("precision", "recall", "F1")}
    scores = [["score", f"synthetic (n = {ours['n']})", f"real (n = {real['n']})"]]
    scores += [[text, interval(ours[key]), interval(real[key])] for key, text in names.items()]
    recall = [["class", "synthetic named right (95%)", "real named right (95%)", "real images the scorer learned from"]]
    recall += [
        [name, interval(ours["per_class"][name]), interval(real["per_class"][name]), str(whole["scorer_trained_on"][name])]
        for name in ours["per_class"]
    ]
    return [
        f"{whole['per_class']} images a class: common classes drawn by the base from text, rare ones from the accepted images. The scorer learned from "
        "`reserve` alone, without the images of the memorisation null, and scores real val images beside them, one a lesion. Every class weighs the same.",
        f"The generator's F1 lies **{whole['beside_real']}** the interval of the real images.",
        markdown(scores),
        markdown(recall),
        "![What the scorer named](audit/accuracy.png)",
    ]


def document(record: Found, card: Card, params: Params, report: Path) -> str:
    """audit.md from audit.json's `record`; `report` is the folder that it and its pictures lie in."""
    whole = record["all"]
    smoke = f"{SMOKE}. " if params.dataset == "smoke" else ""
    parts = [f"# {smoke}{card.title}: the synthetic images, audited"]
    if card.phantom:
        parts.append(f"**{PHANTOM}**")
    if whole["stops"]:
        parts += ["## This stops the pipeline", "\n".join(f"- {text}." for text in whole["stops"])]
    if whole["warnings"]:
        parts += ["## Warnings", "\n".join(f"- {text[:1].upper()}{text[1:]}." for text in whole["warnings"])]
    if not whole["stops"] and not whole["warnings"]:
        parts.append("No warnings.")
    parts += ["## Does the generator draw what it is asked for?", *accuracy_section(whole)]
    for disease, modes in record.items():
        if disease == "all":
            continue
        parts += [f"## {card.classes[disease].title} ({disease})", *quality_section(disease, modes, whole["floors"][disease])]
        parts += [*published_section(whole["published"][disease]), *copies_section(modes)]
        for name, alt in (("distances", "How near candidates and unseen real images lie to training images"), ("pairs", "The closest pairs")):
            if (report / "audit" / f"{name}_{disease}.png").exists():
                parts.append(f"![{alt}](audit/{name}_{disease}.png)")
    if whole["on_sheet"]:
        parts += [
            "## Could you tell?",
            f"`audit/rating.png` shows {whole['on_sheet']} numbered images, half of them real. Fill a copy of `audit/rating_form.csv` with real or synthetic "
            "before opening `audit/rating_key.csv`, and have it scored:",
            f"```sh\npython -m stages.rate my_answers.csv {report.as_posix()}/audit\n```",
        ]
    parts += ["## How to read this", "\n".join(f"- {text}" for text in notes(whole))]
    parts.append("Made by `make reproduce`, with `PRESET=` where a preset holds the settings (stage audit); every figure stands in `audit.json`.")
    return "\n\n".join(parts) + "\n"


def notes(whole: Found) -> list[str]:
    """What the numbers are, and which are missing."""
    absent = whole["not_at_hand"]
    missing = (
        [f"Not computed, for want of weights: {', '.join(absent)}. `python -m stages.encoder` takes weights that you have as files."]
        if absent
        else []
    )
    return [
        "KID: distance of the two sets of images in the eyes of an encoder, about 0 when they are alike; the row `real against real` is how far apart real "
        "images are by chance. Its interval comes from random halves.",
        f"FD needs {FD_IMAGES} images per dimension of the encoder; with fewer it says too few. In none of these encoders is it the FID of papers, which "
        "takes the Inception weights of 2015 and tens of thousands of images; compare it with `real against real` alone.",
        f"Precision: share of synthetic images among the real ones; recall and coverage: share of real ones that the synthetic reach; density: how thick "
        f"they lie there ({NEIGHBOURS} neighbours). Recall, density and coverage hang on n: compare with `real against real`.",
        "Diversity: mean distance between two images of a set, over that of real ones; near 0 one image repeats. LPIPS is such a mean too, of perceptual "
        "distances (VGG). The Inception score is by torchvision's weights of Inception v3, and of one set of n, so it lies below those of 50,000 images.",
        f"A copy lies nearer to a training image, in any turn or mirroring, than {QUANTILE:.0%} of real images that nobody trained on (the null), in the first "
        f"encoder; the filter compares pixels. (The judge was trained from that encoder's weights.) Under {LEAST} candidates or null images the test is "
        "underpowered: it warns and does not stop the run.",
        f"What the LoRA knows of its training images stops the run when the lower bound of the AUC exceeds {MAX_AUC:.2f}, from {LEAST_LESIONS} lesions "
        "on either side.",
        "Authentic: farther from the nearest training image than that one is from its own neighbour (AuthPct).",
        "`No evidence above the null` is not proof that nothing was memorised: images of patients, and what was learned from them, may stay personal data.",
        *missing,
    ]
