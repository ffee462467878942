"""Data URLs of images: what is accepted and which bytes they hold. Source: http-api.md 5."""

from __future__ import annotations

import binascii
from collections.abc import Iterator

from server.domain.errors import ImageDecodeError, ImageTooLargeError, ImageUrlSchemeError

SCHEME_MESSAGE = (
    "Images must be sent as base64 data URLs, such as data:image/jpeg;base64,...;"
    " the server fetches nothing."
)

_MAX_TYPE_CHARACTERS = 1024
_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_PADDING = "= \t\r\n\f\v"
_PIECE_CHARACTERS = 64 << 10


def parse_data_url(url: str, *, max_bytes: int) -> bytes:
    """Return the bytes of `data:<anything>;base64,<payload>`; the declared type is not looked at.

    Raises:
        ImageUrlSchemeError: It is not a base64 data URL.
        ImageDecodeError: The payload is not base64, or empty.
        ImageTooLargeError: It holds more than `max_bytes`.
    """
    start = len(url) - len(url.lstrip()) if url[:1].isspace() else 0
    comma = url.find(",", start, start + _MAX_TYPE_CHARACTERS)
    head = url[start : max(comma, start)].lower()
    if not head.startswith("data:") or head.split(";")[-1].strip() != "base64":
        raise ImageUrlSchemeError(SCHEME_MESSAGE)
    return parse_base64(url[comma + 1 :], max_bytes=max_bytes)


def parse_base64(payload: str, *, max_bytes: int) -> bytes:
    """Return the bytes of base64; white space, missing padding and both alphabets are tolerated.

    Raises:
        ImageDecodeError: It is not base64, or empty.
        ImageTooLargeError: It holds more than `max_bytes`.
    """
    try:
        pieces = list(_standard_pieces(payload))
        num_bytes = sum(map(len, pieces)) * 3 // 4
        if num_bytes > max_bytes:
            raise ImageTooLargeError(
                f"The image file has {num_bytes} bytes; at most {max_bytes} are accepted."
            )
        encoded = b"".join(_decoded(pieces))
    except ValueError:  # of the encoding or of base64; its text would show input.
        raise ImageDecodeError("The payload of the image's data URL is not base64.") from None
    if not encoded:
        raise ImageDecodeError("The image's data URL holds no bytes.")
    return encoded


def _standard_pieces(payload: str) -> Iterator[bytes]:
    """Base64 without white space and padding, some at a time: each holds up all other threads."""
    end = len(payload.rstrip(_PADDING))
    for at in range(0, end, _PIECE_CHARACTERS):
        piece = payload[at : min(at + _PIECE_CHARACTERS, end)].encode("ascii")
        if b"=" in piece:
            raise ValueError("padding before the end")
        yield piece.translate(_URL_SAFE_TO_STANDARD, _WHITE_SPACE)


def _decoded(pieces: list[bytes]) -> Iterator[bytes]:
    """Decode pieces as if they were one, whose padding is made up."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % 4
        yield binascii.a2b_base64(rest[:whole], strict_mode=True)
        rest = rest[whole:]
    if rest:
        yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True)
