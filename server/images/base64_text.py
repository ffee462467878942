"""Base64 as people write it, and the bytes that it holds; standard library only.

Runs in a decoding child: a thread of the service that did it would keep the event loop waiting.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_PADDING = b"=" + _WHITE_SPACE
_PIECE_CHARACTERS = 64 << 10


class NotBase64Error(Exception):
    """The text is not base64, or holds no bytes."""


class TooManyBytesError(Exception):
    """It holds more than is accepted."""


def parse_base64(payload: bytes, *, max_bytes: int) -> bytes:
    """Return the bytes of base64; white space, missing padding and both alphabets are tolerated.

    Raises:
        NotBase64Error: It is not base64, or empty.
        TooManyBytesError: It holds more than `max_bytes`.
    """
    try:
        pieces = list(_standard_pieces(payload))
        num_bytes = sum(map(len, pieces)) * 3 // 4
        if num_bytes > max_bytes:
            raise TooManyBytesError(
                f"The image file has {num_bytes} bytes; at most {max_bytes} are accepted."
            )
        encoded = b"".join(_decoded(pieces))
    except ValueError:  # its text would show input
        raise NotBase64Error("The payload of the image's data URL is not base64.") from None
    if not encoded:
        raise NotBase64Error("The image's data URL holds no bytes.")
    return encoded


def _standard_pieces(payload: bytes) -> Iterator[bytes]:
    """Base64 without white space and padding, some at a time."""
    end = len(payload.rstrip(_PADDING))
    for at in range(0, end, _PIECE_CHARACTERS):
        piece = payload[at : min(at + _PIECE_CHARACTERS, end)]
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
