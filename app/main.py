"""The page: a model's reading of an image, and the comparison of regimes. From the repository's root:

python -m streamlit run app/main.py
"""

from __future__ import annotations

import streamlit as st

from app import frame

st.set_page_config(page_title="rarelens", page_icon=":material/search:", layout="wide")
choice = frame.choose()
page = st.navigation(
    [
        st.Page("views/predict.py", title="Read an image", icon=":material/image_search:", default=True),
        st.Page("views/compare.py", title="Compare regimes", icon=":material/compare_arrows:"),
    ],
    position="top",
)
frame.notice(choice)
page.run()
