"""The door of the page: with `auth.required` nothing is shown to anybody who has not signed in and is not on the list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import access, frame, settings, wording
from stages.runtime.errors import UserError


def enter() -> settings.Settings:
    """The settings, for those who may go on; for others the page says why not, and stops here."""
    try:
        found = settings.read()
    except UserError as error:
        frame.stop(error)
    if not found.auth.required:
        return found
    if told := access.missing(_section()):
        frame.stop(UserError(f"This page is closed: sign-in is required (auth.required) and not set up: {told}."))
    if st.user.get("is_logged_in") is not True:
        st.title("rarelens")
        st.info("Sign in to use this page.", icon=":material/lock:")
        st.button("Sign in", on_click=st.login)
        st.stop()
    if told := access.refusal(found.auth, st.user.to_dict()):
        st.error(wording.plain(told), icon=":material/block:")
        st.button("Sign out", on_click=st.logout)
        st.stop()
    return found


def notice(found: settings.Settings) -> None:
    """In the sidebar: who can reach the page, and who has signed in."""
    with st.sidebar:
        address = st.get_option("server.address")
        if access.loopback(address) or found.auth.required:
            frame.small(access.reach(address, found.auth))
        else:
            st.warning(access.reach(address, found.auth), icon=":material/lock_open:")
        if found.auth.required:
            frame.small(f"Signed in as {wording.plain(who(found))}.")
            st.button("Sign out", on_click=st.logout)


def who(found: settings.Settings) -> str:
    """The address of the person at the page, "" where nobody signs in."""
    return str(st.user.get("email") or "") if found.auth.required else ""


def _section() -> Mapping[str, Any]:
    """[auth] of secrets.toml, empty where there is none."""
    try:
        return dict(st.secrets["auth"])
    except (KeyError, FileNotFoundError, TypeError, ValueError):
        return {}
