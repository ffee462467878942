"""API keys: how one is drawn, known again, and shown. Pure functions.

A key is 256 random bits, so that one hash suffices: nobody can try them out. It is shown once;
what is kept is its SHA-256 and its first characters.
"""

from __future__ import annotations

import hashlib
import re
import secrets

KEY_PREFIX = "mt_"
RANDOM_BYTES = 32
SHOWN_CHARACTERS = len(KEY_PREFIX) + 6
"""Of a key in lists: enough to tell keys apart, too few to guess from."""

MAX_NAME_LENGTH = 128
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def draw_key() -> str:
    """Return a new key, such as `mt_` and 43 letters, digits, `-` and `_`."""
    return KEY_PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest_of(key: str) -> str:
    """Return what is kept of a key: SHA-256 in hex; of any text, also one that is no key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def shown_part(key: str) -> str:
    """Return the beginning of a key by which people know it."""
    return key[:SHOWN_CHARACTERS]


def is_account_name(text: str) -> bool:
    """Whether an account may have this name: 1-64 of `a-z 0-9 . _ -`, the first no sign."""
    return _ACCOUNT.fullmatch(text) is not None


def is_key_name(text: str) -> bool:
    """Whether a key may have this name: 1-128 printable characters."""
    return 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable()
