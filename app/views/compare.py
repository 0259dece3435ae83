"""Regimes side by side: the verdict first, then the scores, the curves, whom the model is right for, real images beside synthetic ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from app import artifacts, frame, measured, wording, wording_compare
from stages.runtime.files import read_json

Bounds = dict[str, dict[str, dict[str, float]]]


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place = choice.place
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    st.title("Did synthesis help?")
    frame.phantom_warning(choice)
    frame.shortcut_warning(choice)
    verdict, metrics, figures = place.reports / "verdict.md", place.reports / "metrics", place.reports / "figures"
    contact = place.reports / "plots" / "contact.png"
    missing = [path.relative_to(place.root).as_posix() for path in (verdict, metrics, figures) if not path.exists()]
    if missing:
        st.error(f"Not there yet: {', '.join(missing)}. Build it with `{place.command}`.", icon=":material/error:")
    pooled = verdict.with_suffix(".json").exists() and "folds" in read_json(verdict.with_suffix(".json"))
    stale = artifacts.changed(place, verdict, metrics, figures, place.reports / "detail")
    if pooled:
        st.info(
            "Pooled over several models, one for each part of the test set; the models here are the last part's, and no lock records these tables.",
            icon=":material/layers:",
        )
    elif stale:
        st.warning(
            f"Not as {place.lock.relative_to(place.root)} records it: {', '.join(stale)}. Rebuild with `{place.command}`.", icon=":material/warning:"
        )
    answer, details = split_verdict(verdict)
    if answer:
        st.header(answer)
    frame.small(wording_compare.REGIME)
    show_picture(figures / "verdict.png", f"The candidate, {artifacts.candidate(place)}, against each control", wording_compare.CONTROLS)
    if metrics.exists():
        found = {path.stem: read_json(path) for path in sorted(metrics.glob("*.json"))}
        bounds = known_intervals(place.reports / "detail")
        show_intervals(bounds)
        show_others(found, bounds)
        show_regimes(list(found))
    rest = [path for path in sorted(figures.glob("*.png")) if path.stem not in ("verdict", *wording_compare.FIGURES)] if figures.exists() else []
    if any((figures / f"{name}.png").exists() for name in wording_compare.FIGURES):
        st.header("The curves")
        frame.small(wording_compare.keys(titles))
    for path in [*(figures / f"{name}.png" for name in wording_compare.FIGURES), *rest]:
        show_picture(path, *wording_compare.FIGURES.get(path.stem, (path.stem.replace("_", " ").capitalize(), "")))
    show_confusion(choice, place.reports / "detail" / f"{choice.regime}.json", titles)
    show_subgroups(choice, titles)
    st.header("Real images beside synthetic ones")
    frame.withheld(choice)
    if choice.card.show_images and contact.exists():
        show_picture(contact, "Real training images, and synthetic ones (AI-generated)")
    elif choice.card.show_images:
        st.info(
            f"{contact.relative_to(place.root)} is not there: fetch it with `dvc pull` or build it with `{place.command}`.", icon=":material/info:"
        )
    if details:
        with st.expander("The verdict in full"):
            frame.document(details, place.reports, titles)


def split_verdict(path: Path) -> tuple[str, str]:
    """The answer (the first heading) and the rest of verdict.md without its pictures, which the page shows itself; empty when there is none."""
    if not path.exists():
        return "", ""
    first, _, rest = path.read_text().partition("\n")
    return first.lstrip("# "), frame.without_pictures(rest).replace("\n## ", "\n#### ")


def show_picture(path: Path, title: str, told: str = "") -> None:
    """A figure under its title and above what is to be seen in it, or nothing when it was not made."""
    if path.exists():
        st.markdown(f"**{title}**")
        st.image(path.read_bytes(), alt=title)
        if told:
            frame.small(told)


def known_intervals(folder: Path) -> Bounds:
    """Per regime and score its value and the bounds of its interval."""
    return {path.stem: read_json(path).get("intervals", {}) for path in sorted(folder.glob("*.json"))} if folder.exists() else {}


def show_intervals(bounds: Bounds) -> None:
    """The two scores that decide, with their intervals, the best regime first."""
    rows = sorted(((name, told["rare_f1"], told["rare_ap"]) for name, told in bounds.items() if told), key=lambda row: -row[1]["value"])
    if rows:
        st.header("The two scores that decide")
        table = [(name, *(with_bounds(v) for v in scores)) for name, *scores in rows]
        frame.table(table, ["Regime", "Rare F1", "Rare average precision"])
        frame.small(wording_compare.SCORES)


def with_bounds(found: Mapping[str, float]) -> str:
    """A score with its interval."""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def show_others(metrics: dict[str, dict[str, float]], bounds: Bounds) -> None:
    """The other scores, a regime a row, with their intervals where there are any."""
    if not metrics:
        return
    st.header("Other scores")
    there = {key: title for key, title in wording_compare.OTHERS.items() if all(key in one for one in metrics.values())}
    order = sorted(metrics, key=lambda name: -metrics[name].get("rare_f1", 0))

    def told(name: str, key: str) -> str:
        known = bounds.get(name, {})
        return with_bounds(known[key]) if key in known else f"{metrics[name][key]:.3f}"

    frame.table([(name, *(told(name, key) for key in there)) for name in order], ["Regime", *there.values()])
    one = metrics[order[0]]
    tested = f" on {one['n_test_lesions']:,} sealed test lesions" if "n_test_lesions" in one else " on the sealed test images"
    frame.small(
        f"Means over the models of a regime{tested}, 0 to 1; brackets: 95% interval. Higher is better; of the calibration error, how far said and seen "
        "differ, lower is, and it has no interval: drawing the lesions anew raises it by itself."
    )


def show_regimes(names: list[str]) -> None:
    """What each regime was trained on."""
    st.header("The regimes")
    st.markdown("\n".join(f"- **{name}**: {wording_compare.regime(name) or 'not described'}" for name in names))


def show_confusion(choice: frame.Choice, path: Path, titles: dict[str, str]) -> None:
    """What the chosen model takes the rare diseases for, in words."""
    if not path.exists() or "confusion" not in (told := read_json(path)):
        return
    names, counts = told["confusion"]["classes"], told["confusion"]["counts"]
    named = {name: dict(zip(names, row, strict=True)) for name, row in zip(names, counts, strict=True)}
    st.header(f"What it takes the rare diseases for: {choice.regime}")
    rows = wording_compare.taken_for(named, sorted(told.get("thresholds", {})), titles)
    frame.table(rows, ["Disease", "Named first", "Most often taken for"])
    frame.small(
        "Test images by the one diagnosis that the model names first, as under “Read an image”; “present” may be said of a disease that comes second."
    )


def show_subgroups(choice: frame.Choice, titles: dict[str, str]) -> None:
    """How often the chosen model is right, and finds each rare disease, in each group of patients of 30 lesions or more; the widest gaps."""
    shares, recalls = measured.subgroups(choice.place, choice.regime), measured.found_in_groups(choice.place, choice.regime)
    diseases = sorted({disease for groups in recalls.values() for one in groups.values() for disease in one})
    rows = []
    for attribute, known in shares.items():
        for group, right in known.items():
            found = [recalls[attribute][group].get(disease) for disease in diseases]
            rows.append((attribute.replace("_", " "), group, f"{wording.of_100(right)} of 100", *map(wording.of_100_or_few, found)))
    if not rows:
        return
    st.header(f"Who it is right for: {choice.regime}")
    named = [f"{wording.heading(titles[disease])} named first, of 100 with it" for disease in diseases]
    frame.table(rows, ["Attribute", "Group", "Right at the first guess (95%)", *named])
    gaps = [wording_compare.gap(attribute, "right at the first guess", known) for attribute, known in shares.items()]
    for disease in diseases:
        of_groups = {a: {group: one for group in groups if (one := groups[group].get(disease))} for a, groups in recalls.items()}
        gaps += [wording_compare.gap(attribute, f"{titles[disease]} named first", known) for attribute, known in of_groups.items()]
    told = "; ".join(gap for gap in gaps if gap)
    frame.small(f"{f'Widest gaps: {told}. ' if told else ''}Groups under {wording.FEW} lesions are left out. Groups differ in their diagnoses too.")


show(frame.chosen())
