"""The history, where it is on: what was read, by whom, what was thought of it; to export, and to erase case by case."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from app import frame, history, settings
from stages.runtime.errors import UserError


def show(choice: frame.Choice) -> None:
    """The whole view."""
    st.title("History")
    frame.small("Everybody who may use this page sees all of it. No picture and no file name is kept; times are in UTC.")
    try:
        readings = history.History(choice.place.root / settings.read().history.file)
        rows = readings.rows()
        if not rows:
            st.info("Nothing has been read yet.", icon=":material/info:")
            return
        show_rows(choice, rows)
        export(rows)
        erase(readings, rows)
    except UserError as error:
        frame.stop(error)


def show_rows(choice: frame.Choice, rows: list[history.Reading]) -> None:
    """A line a reading, the latest first."""
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    table = [
        (
            row.at,
            row.who or "not signed in",
            row.case,
            titles.get(said, said),
            row.opinion,
            row.comment,
            f"{row.dataset}, {row.regime}",
            row.model[:8],
        )
        for row, said in ((row, json.loads(row.result)["predicted"]) for row in rows)
    ]
    columns = ["When (UTC)", "Who", "Case", "The model said", "Opinion", "Comment", "Model", "Its hash"]
    st.dataframe(pd.DataFrame(table, columns=columns), hide_index=True, width="stretch")


def export(rows: list[history.Reading]) -> None:
    """Readings of one case, or of all, as a file."""
    case = st.selectbox("Export the case", sorted({row.case for row in rows}), index=None, placeholder="all of them")
    wanted = [row for row in rows if case is None or row.case == case]
    st.download_button(f"Export {len(wanted):,} as CSV", history.as_csv(wanted), "rarelens-history.csv", "text/csv")


def erase(readings: history.History, rows: list[history.Reading]) -> None:
    """Erase a case, after a second thought."""
    st.subheader("Erase a case")
    with st.form("erase", clear_on_submit=True):
        case = st.selectbox("Case", sorted({row.case for row in rows}), index=None)
        sure = st.checkbox("Erase every reading of this case for good")
        if st.form_submit_button("Erase") and case and sure:
            readings.erase(case)
            st.rerun()


show(frame.chosen())
