"""Encoded pictures for tests, sound and broken, made in memory."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def data_url(data: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def png(
    width: int, height: int, *, bit_depth: int, color_type: int, rows: bytes | None = None
) -> bytes:
    """A PNG written by hand; without `rows` it claims its size and holds one empty chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack("!I", zlib.crc32(kind + data))
        return struct.pack("!I", len(data)) + kind + data + checksum

    header = struct.pack("!IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows or b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG of 8 x 8 pixels whose frame header claims another size."""
    data = bytearray(encoded(Image.new("L", (8, 8), 100), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack("!HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP of one colour whose header claims another size."""
    data = bytearray(encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, start)
    struct.pack_into("<I", data, start, (bits & ~0xFFFFFFF) | (width - 1) | ((height - 1) << 14))
    return bytes(data)


def gif_claiming(width: int, height: int) -> bytes:
    """A GIF of 8 x 8 whose first frame claims to be larger than the screen."""
    data = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b"\x2c", 13)
    data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)
