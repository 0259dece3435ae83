"""Prompts: the card's templates, filled with what is known of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from stages.runtime.errors import UserError

_MISSING = {"", "nan", "none", "na", "<na>", "unknown"}


def _word(value: Any) -> str | None:
    """An attribute as a prompt says it (50.0 is "50"), None when it is not known."""
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    return None if text.lower() in _MISSING else text


def render_prompts(templates: Sequence[str], known: Mapping[Any, Any], title: str) -> list[str]:
    """Every one of `templates` (the card's `prompts`) whose attributes are all `known`, filled, in order.

    `title` takes the place of {title}. A template with an unknown attribute (absent, None, NaN, empty or "unknown") is
    left out; `UserError` when none is left.
    """
    words = {name: word for name, value in known.items() if (word := _word(value)) is not None} | {"title": title}
    filled = [t.format(**words) for t in templates if {field for _, field, _, _ in Formatter().parse(t) if field} <= words.keys()]
    if not filled:
        raise UserError(f"{title}: every prompt of the card needs an attribute that an image lacks; add 'an image of {{title}}' under prompts")
    return list(dict.fromkeys(filled))
