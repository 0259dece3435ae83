"""app/settings.toml, typed: who may use the page and the API, and whether the page keeps a history."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from stages.runtime.checked import explain
from stages.runtime.errors import UserError
from stages.runtime.params import Block

Address = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]


class Auth(Block):
    """Whether signing in is `required`, and the e-mail addresses for which it opens; `verified`: the provider must vouch for the address."""

    required: bool
    allowed: list[Address]
    verified: bool

    @model_validator(mode="after")
    def _somebody(self) -> Auth:
        if self.required and not self.allowed:
            raise ValueError("required is true and allowed is empty, so nobody could sign in; name the addresses of those who may")
        return self


class History(Block):
    """Whether the page keeps a history, and in which SQLite `file` (relative to the repository)."""

    enabled: bool
    file: Annotated[str, Field(min_length=1)]


class Settings(Block):
    """The whole file."""

    auth: Auth
    history: History


def read() -> Settings:
    """The settings as they are now; `UserError` when they are missing or broken, so that no default opens what should be closed."""
    path = Path(os.environ.get("RARELENS_SETTINGS") or Path(__file__).with_suffix(".toml"))
    try:
        return Settings.model_validate(tomllib.loads(path.read_text()))
    except ValidationError as error:
        raise explain(error, path.name) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path.name}: the settings cannot be read ({error})") from None
