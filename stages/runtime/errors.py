"""Errors for the reader: one clear line, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """What was wrong, in which file or key, and what to do."""


class LawError(UserError):
    """A law of the design is broken (a group on both sides, a synthetic test image, ...): the pipeline stops."""


def run(main: Callable[[], None]) -> None:
    """Call `main`; a `UserError` ends the process with status 1 and one line on stderr."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
