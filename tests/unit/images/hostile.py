"""A corpus of pictures that are large, odd, damaged, or no pictures at all; bar S6.

Sound ones are encoded from one array of colours, so what has to come out is known without a second
decoder; the PNGs of unusual kinds are written by hand, byte by byte.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image

from contract.skills import Pixels
from tests.unit.images.files import encoded, gif_claiming, jpeg_claiming, png, webp_claiming

LOSSY = 24
"""How far a lossy format may be off in one channel, on colours that change slowly."""

MIB = 1 << 20


class Wanted(StrEnum):
    """What has to become of a picture; `EITHER` is for files that readers disagree about."""

    PIXELS = "pixels"
    REFUSAL = "refusal"
    EITHER = "either"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file; `pixels` are what it shows, [height, width, 3], where that is known."""

    name: str
    data: bytes
    wanted: Wanted
    pixels: np.ndarray | None = None
    tolerance: int = 0


def complaint(case: Case, outcome: Pixels | Exception) -> str:
    """What is wrong with what became of a case; empty if nothing is."""
    if isinstance(outcome, Exception):
        return "" if case.wanted is not Wanted.PIXELS else f"refused: {outcome}"
    if case.wanted is Wanted.REFUSAL:
        return f"decoded to {outcome.width} x {outcome.height}"
    if case.pixels is None:
        return ""
    got = np.frombuffer(outcome.data, np.uint8).reshape(outcome.height, outcome.width, 3)
    if got.shape != case.pixels.shape:
        return f"{got.shape} instead of {case.pixels.shape}"
    if not case.tolerance and np.array_equal(got, case.pixels):
        return ""
    most = max(
        int(np.abs(row.astype(np.int16) - wanted).max())
        for row, wanted in zip(got, case.pixels, strict=True)
    )
    return "" if most <= case.tolerance else f"off by {most}"


def slope(width: int = 64, height: int = 48) -> np.ndarray:
    """Colours that change slowly, [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 200 // width + 20, y * 200 // height + 30, (x + y) * 150 // (width + height))
    return np.stack(channels, axis=-1).astype(np.uint8)


def corpus(*, side: int = 7000) -> list[Case]:
    """All cases, in an order that does not change.

    Args:
        side: Of the large ones; 7,000 is as large as may be, and takes ten seconds to make.
    """
    cases = [*sound(), *large(side), *hand_made(), *headers(), *bombs(), *strangers(), *polyglots()]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def _sound(name: str, data: bytes, pixels: np.ndarray, tolerance: int = 0) -> Case:
    return Case(name=name, data=data, wanted=Wanted.PIXELS, pixels=pixels, tolerance=tolerance)


def _refused(name: str, data: bytes) -> Case:
    return Case(name=name, data=data, wanted=Wanted.REFUSAL)


def _either(name: str, data: bytes) -> Case:
    return Case(name=name, data=data, wanted=Wanted.EITHER)


# --- sound, of every kind


def sound() -> Iterator[Case]:
    """What cameras, browsers and drawing programs write."""
    rgb = slope()
    image = Image.fromarray(rgb)
    grey = np.repeat(rgb[..., :1], 3, axis=-1)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytes(range(256)) * 512  # of 128 kB: more than one segment of a JPEG
    frames = [Image.new("RGB", image.size, color) for color in ("red", "blue")]
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    few = image.quantize(64)
    shown = np.asarray(few.convert("RGB"))

    yield _sound("png_rgb", encoded(image, "PNG"), rgb)
    yield _sound("png_alpha", encoded(clear, "PNG"), rgb)
    yield _sound("png_grey", encoded(Image.fromarray(rgb[..., 0]), "PNG"), grey)
    yield _sound("png_palette", encoded(few, "PNG"), shown)
    yield _sound("png_palette_clear", encoded(few, "PNG", transparency=0), shown)
    yield _sound("png_profile", encoded(image, "PNG", icc_profile=profile), rgb)
    yield _sound("png_exif", encoded(image, "PNG", exif=exif), rgb)
    yield _sound("png_animated", encoded(image, "PNG", save_all=True, append_images=frames), rgb)
    yield _sound("png_behind_rubbish", encoded(image, "PNG") + bytes(MIB), rgb)
    bits = (rgb[..., 0] > 100).astype(np.uint8) * 255
    one_bit = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    yield _sound("png_bits", encoded(one_bit, "PNG"), np.repeat(bits[..., None], 3, axis=-1))

    for name, options in _JPEGS.items():
        more = {"exif": exif} if name == "exif" else {}
        more |= {"icc_profile": profile} if name == "profile" else {}
        yield _sound(f"jpeg_{name}", encoded(image, "JPEG", **options, **more), rgb, LOSSY)
    yield _sound("jpeg_grey", encoded(Image.fromarray(rgb[..., 0]), "JPEG"), grey, LOSSY)
    yield _sound("jpeg_cmyk", encoded(image.convert("CMYK"), "JPEG"), rgb, LOSSY)
    yield _sound("jpeg_behind_rubbish", encoded(image, "JPEG") + b"\xff\xd8" * 1000, rgb, LOSSY)
    yield _sound(
        "jpeg_of_several", encoded(image, "MPO", save_all=True, append_images=frames), rgb, LOSSY
    )

    yield _sound("gif_palette", encoded(few, "GIF"), shown)
    yield _sound("gif_interlaced", encoded(few, "GIF", interlace=1), shown)
    yield _sound("gif_clear", encoded(few, "GIF", transparency=0), shown)
    yield _sound("gif_comment", encoded(few, "GIF", comment=b"c" * 50_000), shown)
    many = [few.rotate(180 * (i % 2)) for i in range(500)]
    yield _sound("gif_500_frames", encoded(few, "GIF", save_all=True, append_images=many), shown)

    yield _sound("webp_lossless", encoded(image, "WEBP", lossless=True), rgb)
    yield _sound("webp_photo", encoded(image, "WEBP", quality=95), rgb, LOSSY)
    yield _sound("webp_alpha", encoded(clear, "WEBP", lossless=True, exact=True), rgb)
    yield _sound("webp_exif", encoded(image, "WEBP", lossless=True, exif=exif), rgb)
    yield _sound("webp_profile", encoded(image, "WEBP", lossless=True, icc_profile=profile), rgb)
    yield _sound(
        "webp_animated",
        encoded(image, "WEBP", lossless=True, save_all=True, append_images=frames),
        rgb,
    )


_JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 90},
    "progressive": {"quality": 90, "progressive": True},
    "full_colour": {"quality": 95, "subsampling": 0},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
    "comment": {"quality": 90, "comment": b"x" * 60_000},
    "exif": {"quality": 90},
    "profile": {"quality": 90},
}


# --- as large as may be, and of odd shapes; table 2.3


def large(side: int) -> Iterator[Case]:
    """Squares in every format, and pictures that are all width or all height."""
    size = (side, side)
    color = Image.new("RGB", size, (40, 90, 160))
    plain = np.broadcast_to(np.array([40, 90, 160], np.uint8), (side, side, 3))
    black = np.broadcast_to(np.uint8(0), (side, side, 3))
    yield _sound("webp_large", encoded(color, "WEBP", lossless=True, method=0), plain)
    yield _sound("gif_large", encoded(Image.new("P", size), "GIF"), black)
    yield _sound("jpeg_large_progressive", encoded(color, "JPEG", progressive=True), plain, LOSSY)
    inks = Image.new("CMYK", size, (255, 255, 255, 0))
    yield _sound("jpeg_large_cmyk", encoded(inks, "JPEG"), black, LOSSY)
    deep = np.broadcast_to(np.array([1, 2, 3], np.uint8), (side, side, 3))
    rows = (b"\0" + bytes([1, 9, 2, 9, 3, 9, 255, 255]) * side) * side  # RGBA of 16 bits
    yield _sound("png_large_deep", png(*size, bit_depth=16, color_type=6, rows=rows), deep)
    for width, height in ((60_000, 1), (1, 60_000), (1, 1)):
        rgb = slope(width, height)
        image = Image.fromarray(rgb)
        yield _sound(f"png_{width}x{height}", encoded(image, "PNG"), rgb)
        yield _sound(f"jpeg_{width}x{height}", encoded(image, "JPEG", subsampling=0), rgb, LOSSY)
    long = slope(16_383, 1)
    yield _sound("webp_16383x1", encoded(Image.fromarray(long), "WEBP", lossless=True), long)
    line = np.asarray(Image.new("P", (60_000, 1)).convert("RGB"))
    yield _sound("gif_60000x1", encoded(Image.new("P", (60_000, 1)), "GIF"), line)


# --- PNGs by hand


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def _header(width: int, height: int, depth: int, kind: int, *, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, depth, kind, 0, 0, interlace))


def hand_made() -> Iterator[Case]:
    """16 bits, interlaced rows, and every filter."""
    high = slope(16, 8)
    low = 255 - high
    for name, kind, num_channels in (("grey", 0, 1), ("grey_alpha", 4, 2), ("rgba", 6, 4)):
        rows = b"".join(
            b"\0" + b"".join(_deep(high[y, x], low[y, x], num_channels) for x in range(16))
            for y in range(8)
        )
        pixels = high if num_channels == 4 else np.repeat(high[..., :1], 3, axis=-1)
        data = png(16, 8, bit_depth=16, color_type=kind, rows=rows)
        yield _sound(f"png_16_bit_{name}", data, pixels)

    rgb = slope(21, 13)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    lines = b"".join(
        b"\0" + rgb[y, left::across].tobytes()
        for left, top, across, down in passes
        for y in range(top, 13, down)
        if left < 21
    )
    body = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    yield _sound("png_interlaced", PNG_HEAD + _header(21, 13, 8, 2, interlace=1) + body, rgb)

    plain, filtered = slope(9, 5), b""
    before = np.zeros((9, 3), np.int64)
    for number, row in enumerate(plain.astype(np.int64)):
        left = np.concatenate([np.zeros((1, 3), np.int64), row[:-1]])
        corner = np.concatenate([np.zeros((1, 3), np.int64), before[:-1]])
        guesses = (0 * row, left, before, (left + before) // 2, _paeth(left, before, corner))
        filtered += bytes([number]) + ((row - guesses[number]) % 256).astype(np.uint8).tobytes()
        before = row
    data = png(9, 5, bit_depth=8, color_type=2, rows=filtered)
    yield _sound("png_every_filter", data, plain)


def _deep(high: np.ndarray, low: np.ndarray, num_channels: int) -> bytes:
    """A pixel of 16-bit channels; the last of two or four is alpha."""
    colors = num_channels - (num_channels in (2, 4))
    channels = b"".join(bytes([high[i], low[i]]) for i in range(colors))
    return channels + b"\x80\0" * (num_channels - colors)


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The fourth filter of the PNG specification, 9.4."""
    guess = left + up - corner
    far = [abs(guess - near) for near in (left, up, corner)]
    first = np.where(
        (far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner)
    )
    return first


# --- headers that lie


def headers() -> Iterator[Case]:
    """Sizes of zero, sizes that are not so, and fields that make no sense."""
    sound_png = encoded(Image.fromarray(slope()), "PNG")
    sound_jpeg = encoded(Image.fromarray(slope()), "JPEG")
    sound_gif = encoded(Image.fromarray(slope()).quantize(16), "GIF")
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    for width, height in ((0, 0), (0, 5), (5, 0)):
        yield _refused(f"png_{width}x{height}", png(width, height, bit_depth=8, color_type=2))
        yield _refused(f"jpeg_{width}x{height}", jpeg_claiming(width, height))
    frame = sound_gif.index(b"\x2c", 13 + 3 * 16)
    nothing = sound_gif[:6] + b"\0\0\0\0" + sound_gif[10:frame]
    yield _refused("gif_0x0", nothing + b"\x2c" + bytes(8) + sound_gif[frame + 9 :])
    yield _either("gif_screen_of_0x0", nothing + sound_gif[frame:])
    yield _either("png_of_fewer_rows", png(100, 100, bit_depth=8, color_type=2, rows=bytes(301)))
    yield _refused("png_without_data", PNG_HEAD + _header(8, 8, 8, 2) + chunk(b"IEND", b""))
    yield _refused("png_without_header", PNG_HEAD + body)
    yield _refused("png_short_header", PNG_HEAD + chunk(b"IHDR", b"\0\0\0\1") + body)
    yield _refused("png_head_alone", PNG_HEAD)
    for depth, kind in ((3, 2), (1, 6), (16, 3), (8, 5), (255, 255), (0, 0)):
        yield _refused(
            f"png_depth_{depth}_kind_{kind}", PNG_HEAD + _header(8, 8, depth, kind) + body
        )
    yield _refused("png_filter_9", png(4, 1, bit_depth=8, color_type=0, rows=b"\x09abcd"))
    yield _refused("png_wrong_checksum", sound_png[:29] + b"\0\0\0\0" + sound_png[33:])
    yield _refused(
        "png_bad_stream",
        PNG_HEAD + _header(8, 8, 8, 2) + chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 99),
    )
    yield _refused("png_endless_chunk", sound_png[:33] + b"\xff\xff\xff\xffIDAT" + bytes(100))
    yield _either("png_two_headers", sound_png[:33] + _header(9999, 1, 8, 2) + sound_png[33:])
    yield _either("png_without_palette", PNG_HEAD + _header(8, 8, 8, 3) + body)
    rows = b"\0" + b"\xff" * 8
    palette = chunk(b"PLTE", b"\1\2\3")
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    yield _either("png_index_beyond_palette", PNG_HEAD + _header(8, 1, 8, 3) + palette + data)
    yield _either("png_too_much_data", png(1, 1, bit_depth=8, color_type=0, rows=bytes(10 * MIB)))

    frame = sound_jpeg.index(b"\xff\xc0")
    yield _either("jpeg_of_fewer_rows", jpeg_claiming(4000, 4000))
    yield _refused("jpeg_no_components", sound_jpeg[: frame + 9] + b"\0" + sound_jpeg[frame + 10 :])
    yield _refused(
        "jpeg_255_components", sound_jpeg[: frame + 9] + b"\xff" + sound_jpeg[frame + 10 :]
    )
    yield _refused("jpeg_12_bits", sound_jpeg[: frame + 4] + b"\x0c" + sound_jpeg[frame + 5 :])
    for marker in (0xC3, 0xC5, 0xC8, 0xCB):  # lossless, hierarchical, reserved
        data = sound_jpeg[: frame + 1] + bytes([marker]) + sound_jpeg[frame + 2 :]
        yield _refused(f"jpeg_frame_{marker:x}", data)
    yield _either("jpeg_arithmetic", sound_jpeg[: frame + 1] + b"\xc9" + sound_jpeg[frame + 2 :])
    yield _refused("jpeg_without_frame", sound_jpeg[:frame] + b"\xff\xd9")
    scan = sound_jpeg.index(b"\xff\xda")
    yield _refused("jpeg_without_scan", sound_jpeg[:scan])
    tables = sound_jpeg.index(b"\xff\xc4")
    broken = sound_jpeg[: tables + 5] + b"\xff" * 16 + sound_jpeg[tables + 21 :]
    yield _refused("jpeg_impossible_codes", broken)
    yield _either("jpeg_noise_as_data", sound_jpeg[: scan + 14] + _noise(500) + b"\xff\xd9")
    yield _refused("jpeg_start_alone", b"\xff\xd8\xff")
    yield _either("jpeg_length_0", b"\xff\xd8\xff\xe0\0\0" + sound_jpeg[4:])

    at = sound_gif.index(b"\x2c", 13 + 3 * 16)
    beyond = sound_gif[: at + 1] + b"\xf0\xff\xf0\xff" + sound_gif[at + 5 :]
    yield _either("gif_frame_beyond_its_screen", beyond)
    yield _refused("gif_without_frames", sound_gif[:at] + b";")
    yield _refused("gif_codes_of_255_bits", sound_gif[: at + 10] + b"\xff" + sound_gif[at + 11 :])
    yield _refused("gif_head_alone", b"GIF89a")

    webp = encoded(Image.fromarray(slope()), "WEBP", lossless=True)
    yield _refused("webp_head_alone", webp[:20])
    yield _refused("webp_canvas_and_nothing", _canvas(64, 48))
    yield _refused("webp_noise_as_data", webp[:25] + _noise(300))
    yield _refused("webp_unknown_kind", webp[:12] + b"VP9 " + webp[16:])


def _canvas(width: int, height: int) -> bytes:
    """An extended WebP that says a size and has no picture."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _noise(num_bytes: int) -> bytes:
    return random.Random(5).randbytes(num_bytes)


# --- small files that would be large


def bombs() -> Iterator[Case]:
    """Few bytes that ask for much memory or much time."""
    sound_png = encoded(Image.fromarray(slope()), "PNG")
    sound_jpeg = encoded(Image.fromarray(slope()), "JPEG")
    sound_gif = encoded(Image.fromarray(slope()).quantize(16), "GIF")
    for side in (7_072, 9_000, 13_000, 65_535, 2**31 - 1):
        yield _refused(f"png_{side}", png(side, side, bit_depth=1, color_type=0))
    for side in (9_000, 65_500):
        yield _refused(f"jpeg_{side}", jpeg_claiming(side, side))
    for side in (9_400, 16_383):
        yield _refused(f"webp_{side}", webp_claiming(side, side))
    yield _refused("webp_canvas_of_tera_pixels", _canvas(1 << 24, 1 << 24))
    yield _refused("webp_canvas_of_a_line", _canvas(1 << 24, 100))
    yield _refused("gif_60000", gif_claiming(60_000, 60_000))

    long = zlib.compress(bytes(100 * MIB), 9)  # 100 kB
    texts = {
        "text": (b"zTXt", b"k\0\0"),
        "unicode": (b"iTXt", b"k\0\1\0\0\0"),
        "profile": (b"iCCP", b"k\0\0"),
    }
    for name, (kind, head) in texts.items():
        yield _either(f"png_100_mb_{name}", _inside(sound_png, chunk(kind, head + long)))
    part = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MIB - 1), 9))
    yield _either("png_100_texts", _inside(sound_png, part * 100))
    yield _either("png_many_chunks", _inside(sound_png, chunk(b"abCd", b"") * 300_000))
    yield _either("png_many_empty_parts", _inside(sound_png, chunk(b"IDAT", b"") * 300_000))
    yield _either("gif_many_comments", _before_frame(sound_gif, b"!\xfe\0" * 3_300_000))
    yield _either(
        "gif_long_comment", _before_frame(sound_gif, b"!\xfe" + b"\1a" * 2_000_000 + b"\0")
    )
    start, rest = sound_jpeg[:2], sound_jpeg[2:]
    yield _either("jpeg_many_comments", start + b"\xff\xfe\0\2" * 900_000 + rest)
    yield _either("jpeg_filling", start + b"\xff" * (10 * MIB - 100_000) + rest)
    yield _either("jpeg_restarts_first", start + b"\xff\xd0" * 2_000_000 + rest)
    yield _either("jpeg_exif_of_65535_entries", start + _exif_bomb() + rest)
    flat = encoded(Image.new("L", (7000, 7000), 128), "JPEG", progressive=True)
    last = flat[flat.rindex(b"\xff\xda") : -2]
    yield _refused("jpeg_1000_scans", flat[:-2] + last * 1000 + flat[-2:])
    yield _refused("jpeg_hidden_scans", flat[:-2] + (b"\xff\x01" + last) * 1000 + flat[-2:])


def _inside(sound_png: bytes, chunks: bytes) -> bytes:
    return sound_png[:33] + chunks + sound_png[33:]


def _before_frame(sound_gif: bytes, blocks: bytes) -> bytes:
    at = sound_gif.index(b"\x2c", 13 + 3 * 16)
    return sound_gif[:at] + blocks + sound_gif[at:]


def _exif_bomb() -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, tag) for tag in range(65_535))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + entries + bytes(4)
    parts = [exif[at : at + 65_000] for at in range(0, len(exif), 65_000)]
    return b"".join(
        b"\xff\xe1" + struct.pack("!H", len(part) + 8) + b"Exif\0\0" + part for part in parts
    )


# --- other formats, and none


def strangers() -> Iterator[Case]:
    """What is no JPEG, PNG, WebP or GIF, whatever its data URL says."""
    image = Image.fromarray(slope())
    kinds = (
        *("BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "DDS", "SGI", "ICNS", "EPS", "PDF"),
        *("JPEG2000", "AVIF", "QOI"),
    )
    for kind in kinds:
        try:
            yield _refused(kind.lower(), encoded(image.resize((64, 64)), kind))
        except (KeyError, OSError):  # this Pillow cannot write it
            continue
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("../../a.png", encoded(image, "PNG"))
    texts = {
        "nothing": b"\0",
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "noise": _noise(5000),
        "text": b"not a picture",
        "html": b"<!doctype html><script>alert(1)</script>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "xml": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "eps_with_code": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(id) (w) file",
        "elf": b"\x7fELF" + bytes(500),
        "script": b"#!/bin/sh\nid\n",
        "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
        "json": b'{"image": true}',
        "gzip": gzip.compress(encoded(image, "PNG")),
        "zip": zipped.getvalue(),
        "url": b"https://example.com/cat.jpg",
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "mp4": b"\0\0\0\x18ftypisom" + bytes(100),
        "psd": b"8BPS\0\1" + bytes(100),
        "wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(30),
    }
    for name, data in texts.items():
        yield _refused(name, data)


def polyglots() -> Iterator[Case]:
    """Files that are two things; the bytes at the beginning decide, and nothing is run."""
    rgb = slope()
    image = Image.fromarray(rgb)
    sound_png, sound_jpeg = encoded(image, "PNG"), encoded(image, "JPEG", quality=90)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.py", "print(1)")
    script = b"<script>alert(1)</script>"
    yield _sound("png_and_zip", sound_png + zipped.getvalue(), rgb)
    yield _sound("jpeg_and_zip", sound_jpeg + zipped.getvalue(), rgb, LOSSY)
    yield _sound("jpeg_and_png", sound_jpeg + sound_png, rgb, LOSSY)
    yield _sound("png_and_html", _inside(sound_png, chunk(b"tEXt", b"c\0" + script)), rgb)
    comment = b"\xff\xfe" + struct.pack("!H", len(script) + 2) + script
    yield _sound("jpeg_and_html", sound_jpeg[:2] + comment + sound_jpeg[2:], rgb, LOSSY)
    few = image.quantize(16)
    gif = encoded(few, "GIF")
    yield _sound("gif_and_script", gif + b"*/=1;alert(1)", np.asarray(few.convert("RGB")))
    yield _refused("html_and_png", script + sound_png)
    yield _refused("zip_and_jpeg", zipped.getvalue() + sound_jpeg)
    yield _refused("blank_and_png", b"\n" + sound_png)


# --- cut off


def truncations(*, step_percent: int = 1) -> Iterator[tuple[Case, bytes]]:
    """Sound files of each format that end too early; what is shown of one is the whole or nothing.

    Yields:
        The whole, and the part.
    """
    names = ("png_rgb", "png_palette", "jpeg_baseline", "jpeg_progressive", "jpeg_restarts",
             "gif_interlaced", "webp_lossless", "webp_photo")  # fmt: skip
    for case in sound():
        if case.name in names:
            for percent in range(0, 100, step_percent):
                yield case, case.data[: len(case.data) * percent // 100]
