"""YAML that is checked: errors name the file and the key, and show how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.runtime.errors import UserError


def explain(error: ValidationError, where: str | Path, example: Mapping[str, Any] | None = None) -> UserError:
    """A pydantic error as one sentence per key. `example` is a valid file of the kind: what it has at the key is shown."""
    lines = []
    for item in error.errors():
        place, wrong = item["loc"], item["type"]
        if place[-1:] == ("[key]",):  # 0: or no: in YAML, which are no text
            place, wrong = place[:-2], "key"
        key = ".".join(str(k) for k in place) or "(top level)"
        got = f" (got {item['input']!r})" if not isinstance(item["input"], dict) else ""
        text = {
            "missing": "is missing",
            "extra_forbidden": "is not a known key",
            "literal_error": f"{item['input']!r} is not one of {item.get('ctx', {}).get('expected')}",
            "key": f"the key {item['input']!r} is no text; put it in quotes",
            "model_type": f"must be a mapping of keys to values{got}",
        }.get(wrong, item["msg"].removeprefix("Value error, ") + got)
        shown = _example_at(example, place, unknown=wrong == "extra_forbidden") if example else ""
        lines.append(f"{where}: {key}: {text}{shown}")
    return UserError("; ".join(lines))


def _example_at(example: Mapping[str, Any], place: Sequence[int | str], unknown: bool) -> str:
    """What `example` has at the place of an error, as one line of YAML; for an unknown key, the keys that may stand there.

    Where the place goes by a name of the reader's own (a class, a symptom), the example's first one stands for it.
    """
    keys = [key for key in place if not isinstance(key, int)]  # of a list the whole is shown, not an item
    value: Any = example
    for key in keys[:-1] if unknown else keys:
        value = value[key] if key in value else next(iter(value.values()))
    if unknown:
        return f"; known are {', '.join(value)}. Example: {flow(dict([next(iter(value.items()))]))[1:-1]}"
    return f". Example: {flow({keys[-1]: value})[1:-1]}" if keys else ""


def flow(value: Any) -> str:
    """`value` as one line of YAML, its keys in the order they have."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def read_yaml(path: str | Path) -> Any:
    """The YAML in `path`; `UserError` when it is missing or broken."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
