"""Names that lead back to no patient: HMAC-SHA256 under the environment variable RARELENS_ID_KEY. The default key is public."""

from __future__ import annotations

import hmac
import os

KEY = "RARELENS_ID_KEY"
PUBLIC = "rarelens"


def is_public() -> bool:
    """Whether ids are made under the public key, by which whoever guesses a name can find its images."""
    return not os.environ.get(KEY)


def keyed(kind: str, value: str) -> str:
    """16 hex digits of HMAC-SHA256 of `value` under RARELENS_ID_KEY: the same value gives the same key, and no way back."""
    key = os.environ.get(KEY) or PUBLIC
    return hmac.digest(key.encode(), f"{kind}\0{value}".encode(errors="surrogateescape"), "sha256").hex()[:16]
