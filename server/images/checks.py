"""From an encoded file to RGB rows, with every check before its cost; Pillow only.

Runs in a decoding child, because what it reads comes from anybody. Source: http-api.md 5.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

# Imported by name: asking Pillow for WebP would otherwise load its forty other formats.
from PIL import (
    GifImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport] -- registers itself
    Image,
    JpegImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport] -- registers itself
    PngImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport] -- registers itself
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  # pyright: ignore[reportUnusedImport] -- registers itself
)

from server.images.jpeg_scans import count_scans

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

MAX_SCANS_AT_MOST_PIXELS = 16
"""Of a JPEG of as many pixels as may be; a smaller one may have more. Usual are ten."""

_STRIP_BYTES = 4 << 20


class TooManyPixelsError(Exception):
    """The picture is larger than allowed."""


class DamagedError(Exception):
    """The file is no picture of a known format, or is broken."""


def open_checked(encoded: bytes, *, max_pixels: int) -> Image.Image:
    """Read the header; nothing is decoded yet.

    Raises:
        TooManyPixelsError: Width x height is over `max_pixels`.
        DamagedError: The header cannot be read.
    """
    # Pillow raises at twice this number, before any allocation of its own.
    Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Image.DecompressionBombError:
        raise TooManyPixelsError(_too_many(max_pixels)) from None
    except UnidentifiedImageError:
        raise DamagedError("The image is not a readable JPEG, PNG, WebP or GIF file.") from None
    except Exception as error:  # Parsers of four formats raise whatever they like.
        raise DamagedError("The header of the image file is damaged.") from error
    num_pixels = image.width * image.height
    if num_pixels > max_pixels:
        raise TooManyPixelsError(_too_many(max_pixels))
    if encoded.startswith(b"\xff\xd8"):
        # Each scan goes over all pixels, and takes a few bytes of the file.
        max_scans = MAX_SCANS_AT_MOST_PIXELS * max_pixels // max(1, num_pixels)
        if count_scans(encoded, at_most=max_scans) > max_scans:
            raise DamagedError("The JPEG has more scans than a picture of its size may have.")
    return image


def decode_checked(image: Image.Image, *, max_pixels: int) -> None:
    """Decode the first frame as stored: no EXIF orientation, no colour profile.

    Raises:
        TooManyPixelsError: It turned out larger than its header said.
        DamagedError: It is damaged or truncated.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image.load()
    except Image.DecompressionBombError:
        raise TooManyPixelsError(_too_many(max_pixels)) from None
    except MemoryError:
        raise DamagedError("The image needs more memory than a decoder may have.") from None
    except Exception as error:
        raise DamagedError("The image file is damaged or truncated.") from error
    if image.width * image.height > max_pixels:
        raise TooManyPixelsError(_too_many(max_pixels))


def rgb_strips(image: Image.Image) -> Iterator[bytes]:
    """The rows of a decoded picture as 8-bit RGB, some megabytes at a time to save memory."""
    num_rows = max(1, _STRIP_BYTES // (3 * image.width))
    for top in range(0, image.height, num_rows):
        strip = image.crop((0, top, image.width, min(top + num_rows, image.height)))
        yield _eight_bit(strip).convert("RGB").tobytes()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, where Pillow's `convert` would clip everything over 255."""
    if image.mode == "I;16":  # little-endian: the second byte is the high one
        return Image.frombytes("L", image.size, image.tobytes()[1::2])
    return image


def _too_many(max_pixels: int) -> str:
    return f"The image has more than {max_pixels} pixels (width x height)."
