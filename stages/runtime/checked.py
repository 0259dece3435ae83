"""YAML that is checked: errors name the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.runtime.errors import UserError


def explain(error: ValidationError, where: str | Path, example: str = "") -> UserError:
    """A pydantic error as one sentence per key."""
    lines = []
    for item in error.errors():
        key = ".".join(str(k) for k in item["loc"]) or "(top level)"
        got = f" (got {item['input']!r})" if item["type"] not in ("missing", "extra_forbidden") and not isinstance(item["input"], dict) else ""
        text = {"missing": "is missing", "extra_forbidden": "is not a known key"}.get(item["type"], item["msg"] + got)
        lines.append(f"{where}: {key}: {text}")
    return UserError("; ".join(lines) + (f". Example: {example}" if example else ""))


def read_yaml(path: str | Path) -> Any:
    """The YAML in `path`; `UserError` when it is missing or broken."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
