"""Signing in for real: the page in headless Chromium against a small OpenID Connect provider. Needs authlib, which requirements.lock leaves out."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests import browser
from tests.tiny_root import build, write_settings

pytest.importorskip("authlib", reason="authlib is not installed (it is an extra: auth)")
pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@contextmanager
def provider(claims: dict[str, object]) -> Iterator[str]:
    """An OpenID Connect provider that asks nothing and vouches for `claims`, as they are when somebody signs in; its address."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    key = RSAKey.generate_key(2048, {"kid": "k", "use": "sig", "alg": "RS256"})
    asked: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/authorize":
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                asked.update(nonce=query["nonce"], client_id=query["client_id"])
                self.send_response(302)
                self.send_header("Location", f"{query['redirect_uri']}?code=c&state={quote(query['state'])}")
                self.end_headers()
            elif url.path == "/keys":
                self.say({"keys": [key.as_dict(private=False)]})
            else:
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                self.say({"issuer": address, **{name: f"{address}/{path}" for name, path in names.items()}})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            now = int(time.time())
            told = {"iss": address, "aud": asked["client_id"], "sub": "1", "iat": now, "exp": now + 600, "nonce": asked["nonce"], **claims}
            self.say({"access_token": "a", "token_type": "Bearer", "id_token": jwt.encode({"alg": "RS256", "kid": "k"}, told, key)})

        def say(self, value: object) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()


def test_who_is_on_the_list_signs_in_and_out_and_another_is_sent_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    claims: dict[str, object] = {"email": "eve@clinic.example", "email_verified": True}
    monkeypatch.setenv("RARELENS_SETTINGS", str(write_settings(tmp_path / "s.toml", True, ("anne@clinic.example",))))
    secrets = tmp_path / "secrets.toml"
    with provider(claims) as address:
        values = {
            "redirect_uri": "http://127.0.0.1:{port}/oauth2callback",  # Streamlit puts its own port in
            "cookie_secret": "c" * 32,
            "client_id": "rarelens",
            "client_secret": "s",
            "server_metadata_url": f"{address}/.well-known/openid-configuration",
        }
        secrets.write_text("[auth]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items()))
        options = ("--secrets.files", str(secrets))
        with browser.serve(build(tmp_path / "root"), options=options) as page_address, browser.browser() as opened:
            page = browser.open_page(opened, page_address)
            assert page.locator("input[type=file]").count() == 0
            page.get_by_role("button", name="Sign in").click()
            page.get_by_text("eve@clinic.example is not on the list").wait_for()
            assert page.locator("input[type=file]").count() == 0
            page.get_by_role("button", name="Sign out").click()
            claims["email"] = "anne@clinic.example"
            page.get_by_role("button", name="Sign in").click()
            page.locator("input[type=file]").wait_for(state="attached")
            page.get_by_text("Signed in as anne@clinic.example").wait_for()
