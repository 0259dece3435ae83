"""data.md: what was found in the data, for a clinician. Warnings first, plain words, short tables, pictures; lists of ids stay in data.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.dataset.groups import SPLITS
from stages.quality.confounding import STRONG
from stages.quality.shortcut import LEAST_AUC
from stages.runtime.markdown import markdown

LEFT_OUT = "left out"
PHANTOM = "drawings, not patients; the base knew this renderer. The long tail lies in train; the other parts were drawn with set counts per class."
SHORTCUT = "a model can score well here without seeing the disease"
TEXT_MISSES = (
    "The search for text misses short words, letters under 8 px, slanted lines, handwriting and faint text, and about half of what is "
    "written on an MRI slice: that none was found is no proof."
)
PUBLIC_IDS = (
    "**Ids are not secret**: they were made without RARELENS_ID_KEY, so whoever guesses a file's name or a patient's id can find its images. "
    "For patients' data, set it to a secret and refine again."
)
LEAST_PROBES = 3  # shown of each disease, the most telling ones
FEW = 50  # images of a disease, from which on a shortcut that is not found may be called absent
LISTED = 10  # labels in the table; the picture has all
PARTS = {
    "train": "the models learn from it",
    "val": "for choosing among settings",
    "cal": "for calibrating the probabilities",
    "test": "opened once, at the end",
    "base": "common classes, for a base model of one's own",
    "oracle": "real images to compare synthetic ones with",
    "reserve": "kept from all training, for auditing the generator",
    LEFT_OUT: "over a class's limit in split.max_images",
}

Facts = Mapping[str, Any]


def interval(found: Facts) -> str:
    """An AUC with its interval: 0.75 (0.66 to 0.84)."""
    return f"{found['auc']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def shortcut_sentence(title: str, found: Facts) -> str:
    """The warning on a disease whose audit fired."""
    best = max((name for name in found["probes"] if name != found["probe"]), key=found["probes"].__getitem__, default=None)
    alone = f"; the best single one, the {best}, reaches {found['probes'][best]:.2f}" if found["probe"].startswith("everything") and best else ""
    told = "all that is not the disease, taken together," if alone else f"the {found['probe']} alone"
    return (
        f"{SHORTCUT}: {told} tells {title} from {found['against']} with AUC {interval(found)} "
        f"where 0.5 is nothing and 1 is perfect (p = {found['p']:.3f}, {found['n']} training images{alone})"
    )


def describe(facts: Facts, rare: Sequence[str], pictures: Sequence[str]) -> str:
    """The page. `pictures` are the paths, relative to it, of those that were drawn."""
    titles = facts["titles"]

    def picture(name: str, alt: str) -> list[str]:
        return [f"![{alt}]({name})"] if name in pictures else []

    sections = [f"# {facts['title']}: the data"]
    if facts["phantom"]:
        sections.append(f"**{PHANTOM}**")
    if facts["warnings"]:
        sections += ["## Warnings", "\n".join(f"- {text[:1].upper()}{text[1:]}." for text in facts["warnings"])]
    else:
        sections.append("No warning: none of the checks below found anything that a reader must know before looking at results.")
    sections += [*_counts(facts, rare), *picture("data.png", "Training images of every class")]
    sections += [
        "## Can the label be read without seeing the disease?",
        "A simple model was given only what is *not* the disease: the border of the picture, what lies outside the lesion (where its box is known), "
        "and the file's size, shape, format and compression. It was tested on patients or lesions that it had not seen, training images only. "
        "The AUC is how often, of an image with the disease and one without, it takes the right one for diseased: 0.5 is guessing, 1 is perfect. "
        "It is a warning when luck gives as much (p) in under 1 of 100 trials and the interval lies over 0.60.",
        *_shortcuts(facts),
    ]
    for disease, found in facts["shortcut"].items():
        if found["auc"] is not None:
            ranked = sorted(found["probes"].items(), key=lambda item: (-item[1], item[0]))[:LEAST_PROBES]
            told = ", ".join(f"{name} {auc:.2f}" for name, auc in ranked)
            sections += [f"Most telling of {titles[disease]}, with AUC: {told}."]
            sections += picture(f"data/shortcut_{disease}.png", f"{titles[disease]}: what gives it away")
    if facts["shortcut"] and not facts["boxes"]:
        sections.append(
            "These data have no boxes around the lesions: where a lesion or its surroundings reach the edge of the picture, the border shows part of "
            "the disease, and a moderate AUC may be that. The pictures above tell which."
        )
    sections += [*_attributes(facts), *_alike(facts)]
    for name, alt in (("pairs", "Near-duplicates with different labels"), ("groups", "Groups with images of more than one class")):
        sections += picture(f"data/{name}.png", alt)
    sections += ["## Labels to look at again", *_review(facts), *picture("data/labels.png", "Images whose label a simple model doubts")]
    return "\n\n".join(sections + _files(facts)) + "\n"


def _counts(facts: Facts, rare: Sequence[str]) -> list[str]:
    parts = [part for part in (*SPLITS, LEFT_OUT) if any(part in counts for counts in facts["classes"].values())]
    rows = [["class", *parts]]
    for name, counts in facts["classes"].items():
        title = facts["titles"][name]
        cells = [f"{counts[p]['images']} / {counts[p]['groups']}" if p in counts else "0" for p in parts]
        rows.append([f"{title} ({name}, rare)" if name in rare else f"{title} ({name})", *cells])
    groups = facts["groups"]
    spread = ", ".join(f"{n} of {size}" for size, n in groups["images_a_group"].items())
    told = "; ".join(f"{part}: {PARTS[part]}" for part in parts)
    return [
        "## How many",
        f"Images / groups. A group is a patient, a lesion, or pictures that are copies of each other; it never lies in two parts. {told}.",
        markdown(rows),
        f"{facts['images']} images in {groups['count']} groups: {spread} image(s).",
    ]


def _shortcuts(facts: Facts) -> list[str]:
    if not facts["shortcut"]:
        return ["Not asked: `rare` in params.yaml names no disease."]
    rows = [["disease", "told from", "most telling", "AUC (95%)", "p", "images", "of the disease", "warning"]]
    for disease, found in facts["shortcut"].items():
        numbers = ["", "too few", ""] if found["auc"] is None else [found["probe"], interval(found), f"{found['p']:.3f}"]
        rows.append([facts["titles"][disease], found["against"], *numbers, str(found["n"]), str(found["n_positive"]), _warning(found)])
    return [markdown(rows)]


def _warning(found: Facts) -> str:
    if found["fires"]:
        return "yes"
    unsure = found["auc"] is None or (found["high"] > LEAST_AUC and found["n_positive"] < FEW)
    return "none; so few images cannot rule it out" if unsure else "no"


def _attributes(facts: Facts) -> list[str]:
    if not facts["attributes"]:
        return ["## What is known of the patients", "Nothing: no age, sex, site or other attribute came with the images."]
    rows = [["attribute", "known", "missing", "values"]]
    for name, found in facts["attributes"].items():
        levels = found.get("values") or {k: f"{v:g}" for k, v in found.items() if k not in ("known", "missing", "values")}
        rows.append([name.replace("_", " "), str(found["known"]), str(found["missing"]), ", ".join(f"{k}: {v}" for k, v in levels.items())])
    sections = ["## What is known of the patients", markdown(rows)]
    if facts["confounded"]:
        head = ["attribute", "strength", "measure", "p", "groups"]
        strengths = [
            [k.replace("_", " "), f"{v['strength']:.2f}", v["measure"], f"{v['p']:.3f}", str(v["groups"])] for k, v in facts["confounded"].items()
        ]
        sections += [
            "What goes with the diagnosis before any picture is looked at (training images, a group counts once). Strength: 0 is nothing, 1 gives the "
            f"diagnosis away, from {STRONG} on it is a warning. p: how often luck gives as much.",
            markdown([head, *strengths]),
        ]
    return sections


def _alike(facts: Facts) -> list[str]:
    near, groups = facts["near_duplicates"], facts["groups"]
    told = (
        f"{near['pairs']} pairs of near-duplicates, in {near['clusters']} clusters of up to {near['largest']} images; each cluster is one group. "
        f"{len(near['labels_disagree'])} pairs have different labels. {groups['several_labels']} groups hold images of more than one class."
        if near["pairs"]
        else f"No near-duplicates. {groups['several_labels']} groups hold images of more than one class."
    )
    exact = sum(n for reason, n in [*facts["quarantine"].items(), *facts["frame_copies"].items()] if reason.startswith("exact duplicate"))
    return ["## Pictures that are alike", f"{exact} exact copies were left out. {told}"]


def _review(facts: Facts) -> list[str]:
    rows, titles = facts["label_review"], facts["titles"]
    if not rows:
        return ["No list: no image stands out, or fewer than two classes have ten groups."]
    head = "These are the training images where the label and a simple model disagree most, each judged by a model that had not seen its group. "
    return [
        head + "The model is a simple one and often wrong: the list is for a person to look at, it does not say that a label is wrong. "
        f"The first {min(LISTED, len(rows))} of {len(rows)} are named here, and all are in the picture and in data.json; in the refined table the "
        "SHA-256 of the raw file stands beside the id.",
        markdown(
            [
                ["", "id", "label", "the model says", "how sure it is"],
                *(
                    [str(k), row["id"], titles[row["label"]], titles[row["suggested"]], f"{row['probability']:.0%}"]
                    for k, row in enumerate(rows[:LISTED], start=1)
                ),
            ]
        ),
    ]


def _files(facts: Facts) -> list[str]:
    raw = facts["originals"]
    kinds = [[facts["titles"][name], ", ".join(f"{kind}: {n}" for kind, n in found.items())] for name, found in raw["kinds"].items()]
    sizes = ", ".join(f"{size}: {n}" for size, n in raw["sizes"].items())
    few, many = raw["file_bytes"]["min"], raw["file_bytes"]["max"]
    which = f", the {len(raw['sizes'])} most frequent of {raw['different_sizes']}" if len(raw["sizes"]) < raw["different_sizes"] else ""
    sections = [
        "## The files as they came",
        markdown([["class", "format and mode"], *kinds]),
        f"Sizes in px{which}: {sizes}. Bytes a file: {few:,}" + (f" to {many:,}." if many > few else "."),
    ]
    if small := raw["enlarged"]["n"]:
        sections.append(
            f"{small} of {facts['images']} are smaller than {raw['enlarged']['to']} px and were enlarged: they hold less than they seem to."
        )
    if facts["public_ids"] and not facts["phantom"]:
        sections.append(PUBLIC_IDS)
    if facts["burned_in_text"] is not None:
        told = ", ".join(f"{facts['titles'][name]}: {n}" for name, n in facts["burned_in_text"].items() if n)
        sections.append(f"Images with burned-in text: {told or 'none found'}. {TEXT_MISSES}")
    quarantined = sum(facts["quarantine"].values())
    reasons = [[str(n), reason.replace("|", "/")] for reason, n in facts["quarantine"].items()]
    left_out = [f"{quarantined} file(s) were not used (quarantine.csv names them):", markdown([["files", "why"], *reasons])]
    left_out = left_out if reasons else []
    if frames := facts["frames_left_out"]:
        left_out.append(f"Of the files that were used, images or frames left out: {', '.join(f'{reason}: {n}' for reason, n in frames.items())}.")
    if blank := facts["unusable"]:
        told = ", ".join(f"{why}: {n}" for why, n in blank.items())
        left_out.append(f"Images that were refined and are in no part, because they show too little to learn from or to test on: {told}.")
    return [*sections, "## What was left out", *(left_out or ["Nothing was left out."])]
