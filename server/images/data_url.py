"""Data URLs of images: what is accepted and which bytes they hold. Source: http-api.md 5."""

from __future__ import annotations

import binascii

from server.domain.errors import ImageDecodeError, ImageTooLargeError, ImageUrlSchemeError

SCHEME_MESSAGE = (
    "Images must be sent as base64 data URLs, such as data:image/jpeg;base64,...;"
    " the server fetches nothing."
)

_MAX_TYPE_CHARACTERS = 1024
_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"


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
        characters = payload.encode("ascii").translate(_URL_SAFE_TO_STANDARD, _WHITE_SPACE)
        characters = characters.rstrip(b"=")
        num_bytes = len(characters) * 3 // 4
        if num_bytes > max_bytes:
            raise ImageTooLargeError(
                f"The image file has {num_bytes} bytes; at most {max_bytes} are accepted."
            )
        padding = b"=" * (-len(characters) % 4)
        encoded = binascii.a2b_base64(characters + padding, strict_mode=True)
    except ValueError:  # of the encoding or of base64; its text would show input.
        raise ImageDecodeError("The payload of the image's data URL is not base64.") from None
    if not encoded:
        raise ImageDecodeError("The image's data URL holds no bytes.")
    return encoded
