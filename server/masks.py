"""What must not be shown: keys, tokens and passwords, out of anything that is about to be said."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from server.config import ServerConfig

MASK = "***"
_SECRET_WORDS = ("KEY", "TOKEN", "PASSWORD", "SECRET")
_LEAST_LENGTH = 4
"""Shorter ones would mask every word."""


def mask_url(url: str) -> str:
    """A URL without the password, and without what stands behind its question mark."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return MASK
    masked = url if password is None else url.replace(f":{password}@", f":{MASK}@", 1)
    return masked.replace(f"?{parts.query}", f"?{MASK}") if parts.query else masked


def secrets_of(environment: Mapping[str, str], config: ServerConfig | None) -> frozenset[str]:
    """Everything that a report must not hold."""
    found = {
        value
        for name, value in environment.items()
        if any(word in name.upper() for word in _SECRET_WORDS)
    }
    urls = [value for value in environment.values() if "://" in value and "@" in value]
    if config is not None:
        if config.api_key is not None:
            found.add(config.api_key.get_secret_value())
        if config.database_url is not None:
            urls.append(config.database_url)
    for url in urls:
        found |= _of_url(url)
    return frozenset(secret for secret in found if len(secret) >= _LEAST_LENGTH)


def mask(text: str, secrets: frozenset[str]) -> str:
    """The text with each secret replaced; longer ones first, as one may hold another."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _of_url(url: str) -> set[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
