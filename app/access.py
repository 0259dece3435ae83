"""Who may use the page and the API. Whatever is missing, broken or unknown keeps them closed."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from app.settings import Auth
from stages.runtime.errors import UserError

NEEDED = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")  # of [auth] in .streamlit/secrets.toml
MIN_SECRET = 32  # characters: whoever guesses the cookie's secret or the token is anybody
TOKEN = "RARELENS_API_TOKEN"
INSTALL = ".venv/uv/bin/uv pip install --python .venv/bin/python 'authlib>=1.3.2'"
HOW = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"


def missing(section: Mapping[str, Any]) -> str:
    """What keeps Streamlit's OpenID Connect sign-in, set up by `section` ([auth] of secrets.toml), from working; "" when nothing does."""
    if lacking := [key for key in NEEDED if not section.get(key)]:
        return f"[auth] in .streamlit/secrets.toml lacks {', '.join(lacking)}"
    if len(str(section["cookie_secret"])) < MIN_SECRET:
        return f"cookie_secret in .streamlit/secrets.toml has under {MIN_SECRET} characters; {HOW}"
    if find_spec("authlib") is None:
        return f"the package authlib is not installed: {INSTALL}"
    return ""


def refusal(auth: Auth, user: Mapping[str, Any]) -> str:
    """Why someone who has signed in with the claims `user` is not let in; "" when they are."""
    address = str(user.get("email") or "")
    if not address:
        return "The sign-in service gives no e-mail address, so nobody can tell whether you may use this page."
    if auth.verified and user.get("email_verified") is not True:
        return f"The sign-in service does not vouch for the address {address} (email_verified)."
    if address.casefold() not in {one.casefold() for one in auth.allowed}:
        return f"{address} is not on the list of those who may use this page (auth.allowed in app/settings.toml)."
    return ""


def api_token(auth: Auth) -> str | None:
    """The token that every request to the API must bear; None where no sign-in is required.

    Raises `UserError` when one is required and there is none, or one that can be guessed.
    """
    if not auth.required:
        return None
    token = os.environ.get(TOKEN, "")
    if len(token) < MIN_SECRET or not token.isascii():
        raise UserError(f"auth.required is on, so the API starts only with a token of {MIN_SECRET} or more ASCII characters in {TOKEN}; {HOW}")
    return token


def loopback(address: str | None) -> bool:
    """Whether a server on `address` (None: on all) is reached from this machine only."""
    try:
        return address == "localhost" or ipaddress.ip_address(address or "").is_loopback
    except ValueError:  # a name may mean any address
        return False


def reach(address: str | None, auth: Auth) -> str:
    """Who can reach the page, in words."""
    if loopback(address):
        return f"Served to this machine only ({address})."
    where = f"Served to the network (address {address or 'of every network this machine is in'})"
    return f"{where}, to those who sign in." if auth.required else f"{where} **without sign-in**: whoever reaches this address can use it."
