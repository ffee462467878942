"""Base64 as people write it, and the bytes that it holds; standard library only.

Runs in a decoding child: a thread of the service that did it would keep the event loop waiting.
"""

from __future__ import annotations

import binascii

_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"


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
    text = payload.translate(_URL_SAFE_TO_STANDARD, _WHITE_SPACE).rstrip(b"=")
    num_bytes = len(text) * 3 // 4
    if num_bytes > max_bytes:
        raise TooManyBytesError(
            f"The image file has {num_bytes} bytes; at most {max_bytes} are accepted."
        )
    try:
        encoded = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError:  # its text would show input
        raise NotBase64Error("The payload of the image's data URL is not base64.") from None
    if not encoded:
        raise NotBase64Error("The image's data URL holds no bytes.")
    return encoded
