"""Who is let in: with `auth.required` the page and the API stay closed until everything that signing in needs is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import access, api, settings
from app.settings import Auth
from stages.runtime.errors import UserError
from tests.test_app import MAIN, words
from tests.tiny_root import build, write_settings

SECTION = {
    "redirect_uri": "http://localhost:8501/oauth2callback",
    "cookie_secret": "c" * 32,
    "client_id": "rarelens",
    "client_secret": "s",
    "server_metadata_url": "http://localhost/.well-known/openid-configuration",
}
ANNE = {"is_logged_in": True, "email": "Anne@clinic.example", "email_verified": True}
CLOSED = Auth(required=True, allowed=["anne@clinic.example"], verified=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "find_spec", lambda name: name)  # as if authlib were installed


def door(root: Path, monkeypatch: pytest.MonkeyPatch, path: Path, user: dict[str, Any] | None = None, secrets: Any = SECTION) -> AppTest:
    """The page as `user` finds it under the settings at `path`."""
    monkeypatch.setenv("RARELENS_ROOT", str(root))
    monkeypatch.setenv("RARELENS_SETTINGS", str(path))
    page = AppTest.from_file(MAIN, default_timeout=600)
    page.user, page.secrets = user or {}, {"auth": secrets} if secrets else {}
    return page.run()


def closed(page: AppTest) -> bool:
    """Whether the page shows nothing of itself."""
    return not page.exception and not page.file_uploader and not page.selectbox and not page.code


@pytest.mark.parametrize("lacking", [None, *SECTION])
def test_a_page_that_requires_sign_in_stays_closed_where_it_is_not_set_up(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: str | None
) -> None:
    section = {key: value for key, value in SECTION.items() if key != lacking} if lacking else None
    page = door(root, monkeypatch, write_settings(tmp_path / "s.toml", True, ("anne@clinic.example",)), ANNE, section)
    assert closed(page) and len(page.error) == 1 and "secrets.toml" in page.error[0].value and (lacking or "cookie_secret") in page.error[0].value


@pytest.mark.parametrize(
    "user",
    [
        {},
        {"is_logged_in": False, **{k: v for k, v in ANNE.items() if k != "is_logged_in"}},
        ANNE | {"email": "eve@clinic.example"},
        ANNE | {"email_verified": False},
        ANNE | {"email": ""},
    ],
)
def test_only_who_signed_in_and_is_on_the_list_is_let_in(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: dict[str, Any]) -> None:
    path = write_settings(tmp_path / "s.toml", True, ("anne@clinic.example",))
    page = door(root, monkeypatch, path, user)
    assert closed(page) and page.button[0].label == ("Sign out" if user.get("is_logged_in") else "Sign in")
    page.user = ANNE
    page.run()
    assert not page.exception and not page.error and page.file_uploader and "Anne" in words(page)


def test_broken_settings_close_the_page(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_settings(tmp_path / "s.toml", True)
    page = door(root, monkeypatch, path)
    assert closed(page) and "nobody could sign in" in page.error[0].value
    path.unlink()
    page.run()
    assert closed(page) and "settings cannot be read" in page.error[0].value


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("required = false", 'required = "no"', "auth.required"),
        ("[history]", "[diary]", "diary"),
        ("allowed = []", "allowed = ['anne']", "auth.allowed.0"),
        ("[auth]", "[auth", "cannot be read"),
    ],
)
def test_a_setting_that_is_not_understood_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, told: str) -> None:
    path = write_settings(tmp_path / "s.toml")
    path.write_text(path.read_text().replace(old, new))
    monkeypatch.setenv("RARELENS_SETTINGS", str(path))
    with pytest.raises(UserError, match=told):
        settings.read()


def test_the_settings_as_shipped_ask_nobody_and_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RARELENS_SETTINGS", raising=False)
    shipped = settings.read()
    assert not shipped.auth.required and shipped.auth.verified and not shipped.history.enabled


def test_sign_in_needs_its_library_and_a_secret_that_nobody_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.missing(SECTION) == ""
    assert "32 characters" in access.missing(SECTION | {"cookie_secret": "short"})
    monkeypatch.setattr(access, "find_spec", lambda name: None)
    assert "authlib" in access.missing(SECTION)


def test_an_address_nobody_vouches_for_opens_only_where_the_settings_say_so() -> None:
    user = {"email": "anne@clinic.example"}
    assert "vouch" in access.refusal(CLOSED, user)
    assert access.refusal(CLOSED.model_copy(update={"verified": False}), user) == ""


def test_the_page_says_who_can_reach_it(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_to_all = CLOSED.model_copy(update={"required": False})
    assert all(access.loopback(one) for one in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(access.loopback(one) for one in (None, "", "0.0.0.0", "::", "192.0.2.1", "clinic.example"))
    assert "this machine only" in access.reach("127.0.0.1", open_to_all)
    assert "without sign-in" in access.reach("0.0.0.0", open_to_all) and "without" not in access.reach("0.0.0.0", CLOSED)
    assert "this machine only" in words(door(root, monkeypatch, write_settings(tmp_path / "s.toml")))


@pytest.mark.parametrize("token", [None, "", "t" * 31, "ü" * 32])
def test_the_api_does_not_start_without_a_token_where_sign_in_is_required(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None
) -> None:
    monkeypatch.setenv("RARELENS_SETTINGS", str(write_settings(tmp_path / "s.toml", True, ("anne@clinic.example",))))
    monkeypatch.delenv(access.TOKEN, raising=False)
    if token is not None:
        monkeypatch.setenv(access.TOKEN, token)
    with pytest.raises(UserError, match=access.TOKEN):
        api.create(root)
