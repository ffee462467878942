"""Data URLs of images: which are accepted, and where their base64 is. Source: http-api.md 5."""

from __future__ import annotations

from server.domain.errors import ImageUrlSchemeError

SCHEME_MESSAGE = (
    "Images must be sent as base64 data URLs, such as data:image/jpeg;base64,...;"
    " the server fetches nothing."
)

_MAX_TYPE_CHARACTERS = 1024


def as_ascii(text: str | bytes) -> bytes:
    """The bytes of a text whose other characters became `?`, which no base64 has.

    White space around it is taken off, of whatever alphabet it is.
    """
    return text.strip().encode("ascii", "replace") if isinstance(text, str) else text.strip()


def payload_of(url: bytes) -> memoryview:
    """Return the base64 of `data:<anything>;base64,<payload>`; the declared type is not looked at.

    Args:
        url: As `as_ascii` gives it.

    Raises:
        ImageUrlSchemeError: It is not a base64 data URL.
    """
    comma = url.find(b",", 0, _MAX_TYPE_CHARACTERS)
    head = url[: max(comma, 0)].lower()
    if not head.startswith(b"data:") or head.split(b";")[-1].strip() != b"base64":
        raise ImageUrlSchemeError(SCHEME_MESSAGE)
    return memoryview(url)[comma + 1 :]
