"""Data URLs of images: which are accepted, and where their base64 is. Source: http-api.md 5."""

from __future__ import annotations

from server.domain.errors import ImageUrlSchemeError

SCHEME_MESSAGE = (
    "Images must be sent as base64 data URLs, such as data:image/jpeg;base64,...;"
    " the server fetches nothing."
)

_MAX_TYPE_CHARACTERS = 1024


def as_ascii(text: str | bytes) -> bytes:
    """The bytes of a text whose other characters became `?`, which no base64 has."""
    return text.encode("ascii", "replace") if isinstance(text, str) else text


def payload_of(url: bytes) -> memoryview:
    """Return the base64 of `data:<anything>;base64,<payload>`; the declared type is not looked at.

    Raises:
        ImageUrlSchemeError: It is not a base64 data URL.
    """
    start = len(url) - len(url.lstrip()) if url[:1].isspace() else 0
    comma = url.find(b",", start, start + _MAX_TYPE_CHARACTERS)
    head = url[start : max(comma, start)].lower()
    if not head.startswith(b"data:") or head.split(b";")[-1].strip() != b"base64":
        raise ImageUrlSchemeError(SCHEME_MESSAGE)
    return memoryview(url.rstrip())[comma + 1 :]
