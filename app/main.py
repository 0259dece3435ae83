"""The page: a model's reading of an image, the comparison of regimes, synthetic images, the drawing of new ones, the data, the model's card.

From the repository's root:

python -m streamlit run app/main.py
"""

from __future__ import annotations

import streamlit as st

from app import frame, gate

READ = "Read an image"

st.set_page_config(page_title="rarelens", page_icon=":material/search:", layout="wide")
settings = gate.enter()
choice = frame.choose()
gate.notice(settings)
page = st.navigation(
    [
        st.Page("views/predict.py", title=READ, default=True),
        st.Page("views/compare.py", title="Compare regimes"),
        st.Page("views/gallery.py", title="Synthetic images"),
        st.Page("views/generate.py", title="Draw images"),
        st.Page("views/data.py", title="Data"),
        st.Page("views/card.py", title="Model card"),
        *([st.Page("views/history.py", title="History")] if settings.history.enabled else []),
    ],
    position="top",
)
frame.notice(choice)
if page.title != READ:
    frame.forget()  # pictures of a patient do not wait for the next one
page.run()
