"""What the model learned from and was tested on: the data report, which opens with its warnings."""

from __future__ import annotations

import streamlit as st

from app import artifacts, frame


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place = choice.place
    report = place.reports / "data.md"
    title, _, text = report.read_text().partition("\n") if report.exists() else ("", "", "")
    st.title(title.lstrip("# ") or f"{choice.card.title}: the data")
    frame.phantom_warning(choice)
    if not report.exists():
        st.error(f"{report.relative_to(place.root)} is not there. Build it with `{place.command}`.", icon=":material/error:")
        return
    if stale := artifacts.changed(place, report, place.reports / "data.json"):
        st.warning(
            f"Not as {place.lock.relative_to(place.root)} records it: {', '.join(stale)}. Rebuild with `{place.command}`.", icon=":material/warning:"
        )
    frame.withheld(choice)
    if not choice.card.show_images:
        text = frame.without_pictures(text)
    frame.document(text, report.parent, {key: entry.title for key, entry in choice.card.classes.items()})


show(frame.chosen())
