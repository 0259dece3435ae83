"""Regimes side by side: the verdict first, then the table, the curves, real images beside synthetic ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from app import artifacts, frame, measured, wording
from stages.metrics.verdict import WHAT
from stages.runtime.files import read_json

#: In this order, with what they show; a figure of another name is shown after them under its own.
FIGURES = {
    "regimes": "Every regime with its 95% interval",
    "roc": "ROC of the rare diseases",
    "pr": "Precision and recall of the rare diseases",
    "reliability": "Reliability: said and seen frequencies",
    "confusion": "Confusion: which diagnosis is taken for which",
}


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place = choice.place
    st.title("Did synthesis help?")
    frame.small(f"{choice.card.title}.")
    frame.phantom_warning(choice)
    frame.shortcut_warning(choice)
    verdict, metrics, figures = place.reports / "verdict.md", place.reports / "metrics", place.reports / "figures"
    contact = place.reports / "plots" / "contact.png"
    missing = [path.relative_to(place.root).as_posix() for path in (verdict, metrics, figures) if not path.exists()]
    if missing:
        st.error(f"Not there yet: {', '.join(missing)}. Build it with `{place.command}`.", icon=":material/error:")
    stale = artifacts.changed(place, verdict, metrics, figures)
    if stale:
        st.warning(
            f"Not as {place.lock.relative_to(place.root)} records it: {', '.join(stale)}. Rebuild with `{place.command}`.", icon=":material/warning:"
        )
    answer, details = split_verdict(verdict)
    if answer:
        st.header(answer)
    show_picture(figures / "verdict.png", "The candidate against each control")
    if metrics.exists():
        show_intervals(place.reports / "detail")
        show_table(metrics)
    rest = [path for path in sorted(figures.glob("*.png")) if path.stem not in ("verdict", *FIGURES)] if figures.exists() else []
    for path in [*(figures / f"{name}.png" for name in FIGURES), *rest]:
        show_picture(path, FIGURES.get(path.stem, path.stem.replace("_", " ").capitalize()))
    show_subgroups(choice, place.reports / "detail" / f"{choice.regime}.json")
    st.header("Real images beside synthetic ones")
    if contact.exists():
        show_picture(contact, "Real training images, and synthetic ones (AI-generated)")
    else:
        st.info(
            f"{contact.relative_to(place.root)} is not there: fetch it with `dvc pull` or build it with `{place.command}`.", icon=":material/info:"
        )
    if details:
        with st.expander("The verdict in full"):
            st.markdown(details)


def split_verdict(path: Path) -> tuple[str, str]:
    """The answer (the first heading) and the rest of verdict.md without its pictures, which the page shows itself; empty when there is none."""
    if not path.exists():
        return "", ""
    first, _, rest = path.read_text().partition("\n")
    return first.lstrip("# "), frame.PICTURE.sub("", rest).replace("\n## ", "\n#### ")


def show_picture(path: Path, title: str) -> None:
    """A figure under its title, or nothing when it was not made."""
    if path.exists():
        st.image(path.read_bytes(), caption=title, alt=title)


def show_intervals(folder: Path) -> None:
    """The two scores that decide, with their intervals, the best regime first."""
    found = {path.stem: read_json(path).get("intervals", {}) for path in sorted(folder.glob("*.json"))} if folder.exists() else {}
    rows = sorted(((name, told["rare_f1"], told["rare_ap"]) for name, told in found.items() if told), key=lambda row: -row[1]["value"])
    if rows:
        st.header("The two scores that decide")
        table = [(name, WHAT.get(name, ""), *(f"{v['value']:.2f} ({v['low']:.2f} to {v['high']:.2f})" for v in scores)) for name, *scores in rows]
        st.table(pd.DataFrame(table, columns=["Regime", "Trained on", "Rare F1 (95%)", "Rare average precision (95%)"]), hide_index=True)


def show_subgroups(choice: frame.Choice, path: Path) -> None:
    """How often the chosen model is right in each group of patients of 30 lesions or more, and the widest gap of each attribute."""
    told = read_json(path).get("subgroups", {}) if path.exists() else {}
    rows, gaps = [], []
    for attribute, groups in told.items():
        known = {value: share for value, one in groups.items() if (share := measured.share(one["accuracy"]))}
        rows += [(attribute.replace("_", " "), value, f"{wording.of_100(share)} of 100") for value, share in known.items()]
        if len(known) > 1:
            low, high = min(known, key=lambda v: known[v].value), max(known, key=lambda v: known[v].value)
            gaps.append(f"{attribute.replace('_', ' ')} {round(100 * (known[high].value - known[low].value))} points ({low} below {high})")
    if rows:
        st.header(f"Who it is right for: {choice.regime}")
        st.table(pd.DataFrame(rows, columns=["Attribute", "Group", "Right at the first guess (95%)"]), hide_index=True)
        frame.small(f"Widest gaps: {'; '.join(gaps)}. Groups under {wording.FEW} lesions are left out. Groups differ in their diagnoses too.")


def show_table(folder: Path) -> None:
    """The regimes as rows, their scores (means over seeds, on test) as columns."""
    st.header("The regimes")
    metrics = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    table = pd.DataFrame.from_dict(metrics, orient="index")
    first = [name for name in ("rare_f1", "rare_ap") if name in table]
    table = table[[*first, *table.columns.difference(first)]].sort_values(first, ascending=False)
    table.columns = [name.replace("_", " ") for name in table.columns]
    numbers = {name: st.column_config.NumberColumn(format="%d" if name.startswith("n ") else "%.3f") for name in table.columns}
    table["trained on"] = [WHAT.get(name, "") for name in table.index]
    st.dataframe(table, column_config=numbers, alt="Scores of every regime")
    frame.small("Means over seeds, on the sealed test images. Higher is better; for ece and other errors lower is. Intervals stand in the figures.")


show(frame.chosen())
