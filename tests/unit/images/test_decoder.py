"""Pictures of every kind through the real decoding children."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from server.children import CODE_ROOT, module_environment
from server.domain.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    ImageUrlSchemeError,
    OverloadedError,
)
from server.images.checks import TooManyPixelsError, open_checked
from server.images.decoder import ImageDecoder
from tests.service import until
from tests.unit.images.files import (
    data_url,
    encoded,
    gif_claiming,
    jpeg_claiming,
    png,
    webp_claiming,
)

pytestmark = pytest.mark.anyio

RED, BLUE = (250, 10, 20), (10, 20, 250)


def two_colours(mode: str = "RGB") -> Image.Image:
    """32 x 16: the left half red, the right half blue."""
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return image.convert(mode)


def at(data: bytes, x: int, y: int, *, width: int = 32) -> tuple[int, ...]:
    start = 3 * (y * width + x)
    return tuple(data[start : start + 3])


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 100})],
    ids=["png", "webp", "gif", "jpeg"],
)
async def test_each_format_gives_its_pixels_row_by_row(
    decoder: ImageDecoder, format: str, options: dict[str, object]
) -> None:
    data = encoded(two_colours(), format, **options)
    pixels = await decoder.decode(data_url(data, "application/whatever"))
    assert (pixels.height, pixels.width, len(pixels.data)) == (16, 32, 16 * 32 * 3)
    assert pixels.digest == hashlib.sha256(base64.b64encode(data)).hexdigest()
    tolerance = 3 if format == "JPEG" else 0
    for (x, y), wanted in {(0, 0): RED, (31, 0): BLUE, (0, 15): RED, (31, 15): BLUE}.items():
        got = at(pixels.data, x, y)
        assert all(abs(a - b) <= tolerance for a, b in zip(got, wanted, strict=True))


async def test_exif_orientation_is_ignored(decoder: ImageDecoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    pixels = await decoder.decode(data_url(encoded(two_colours(), "JPEG", exif=exif)))
    assert (pixels.height, pixels.width) == (16, 32)


async def test_alpha_is_dropped_and_what_lies_under_it_shows(decoder: ImageDecoder) -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    pixels = await decoder.decode(data_url(encoded(image, "PNG")))
    assert pixels.data == bytes([200, 100, 50] * 2)


async def test_a_palette_with_transparency_gives_its_colours(decoder: ImageDecoder) -> None:
    image = two_colours("P")
    pixels = await decoder.decode(data_url(encoded(image, "PNG", transparency=0)))
    assert pixels.data == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
async def test_grey_becomes_three_equal_channels(decoder: ImageDecoder, mode: str) -> None:
    image = Image.new("L", (3, 2), 255).convert(mode)
    pixels = await decoder.decode(data_url(encoded(image, "PNG")))
    assert pixels.data == bytes([255] * 18)


async def test_sixteen_bit_grey_is_scaled_not_clipped(decoder: ImageDecoder) -> None:
    # High bytes 0, 1, 128, 255 of four 16-bit values, big-endian as PNG stores them.
    rows = b"\x00" + bytes.fromhex("0000 01ff 8000 ffff")
    data = png(4, 1, bit_depth=16, color_type=0, rows=rows)
    pixels = await decoder.decode(data_url(data))
    assert pixels.data == bytes([0, 0, 0, 1, 1, 1, 128, 128, 128, 255, 255, 255])


async def test_sixteen_bit_colour_keeps_its_high_bytes(decoder: ImageDecoder) -> None:
    rows = b"\x00" + bytes.fromhex("12ff 34ff 56ff")
    data = png(1, 1, bit_depth=16, color_type=2, rows=rows)
    assert (await decoder.decode(data_url(data))).data == bytes.fromhex("123456")


async def test_cmyk_becomes_rgb_and_is_not_inverted(decoder: ImageDecoder) -> None:
    data = encoded(two_colours("CMYK"), "JPEG", quality=100)
    pixels = await decoder.decode(data_url(data))
    for (x, y), wanted in {(2, 2): RED, (29, 13): BLUE}.items():
        assert all(abs(a - b) <= 4 for a, b in zip(at(pixels.data, x, y), wanted, strict=True))


async def test_the_first_frame_of_an_animation_counts(decoder: ImageDecoder) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert at((await decoder.decode(data_url(data))).data, 0, 0, width=4) == RED


async def test_a_picture_of_many_strips_arrives_whole(decoder: ImageDecoder) -> None:
    image = Image.radial_gradient("L").resize((1500, 2000))
    pixels = await decoder.decode(data_url(encoded(image, "PNG", compress_level=1)))
    assert pixels.data == image.convert("RGB").tobytes()


SOUND_JPEG = encoded(Image.radial_gradient("L"), "JPEG")
SOUND_PNG = encoded(Image.radial_gradient("L"), "PNG")


@pytest.mark.parametrize(
    "data",
    [
        SOUND_JPEG[: len(SOUND_JPEG) // 2],
        SOUND_PNG[: len(SOUND_PNG) // 2],
        SOUND_JPEG[:20],
        b"not a picture at all, just text",
        b"\x00" * 1000,
        encoded(two_colours(), "BMP"),
        encoded(two_colours(), "TIFF"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        png(0, 0, bit_depth=8, color_type=2),
        png(100, 100, bit_depth=8, color_type=2),
    ],
    ids=[
        *("truncated_jpeg", "truncated_png", "jpeg_header", "text", "zeros", "bmp", "tiff"),
        *("svg", "eps", "empty_png", "png_without_rows"),
    ],
)
async def test_what_is_damaged_or_of_another_format_is_refused(
    decoder: ImageDecoder, data: bytes
) -> None:
    with pytest.raises(ImageDecodeError):
        await decoder.decode(data_url(data))
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256


@pytest.mark.parametrize(
    "data",
    [
        png(13_000, 13_000, bit_depth=1, color_type=0),
        png(7_072, 7_072, bit_depth=8, color_type=2),
        png(14_000, 14_000, bit_depth=1, color_type=0),
        jpeg_claiming(9_000, 9_000),
        jpeg_claiming(60_000, 60_000),
        webp_claiming(9_400, 9_400),
        webp_claiming(16_383, 16_383),
        gif_claiming(60_000, 60_000),
    ],
    ids=[
        "png_13k",
        "png_just_over",
        "png_14k",
        "jpeg_9k",
        "jpeg_60k",
        "webp_9k",
        "webp_16k",
        "gif",
    ],
)
async def test_a_bomb_is_refused_from_its_header(decoder: ImageDecoder, data: bytes) -> None:
    with pytest.raises(TooManyPixelsError):
        open_checked(data, max_pixels=50_000_000)
    with pytest.raises(ImageTooLargeError, match="more than 50000000 pixels"):
        await decoder.decode(data_url(data))


async def test_a_jpeg_that_claims_more_than_it_holds_is_refused(decoder: ImageDecoder) -> None:
    with pytest.raises(ImageDecodeError):
        await decoder.decode(data_url(jpeg_claiming(4_000, 4_000)[:-2]))


async def test_too_many_bytes_are_refused_before_they_are_looked_at() -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=100, max_pixels=100)
    await decoder.start()
    with pytest.raises(ImageTooLargeError, match="has 101 bytes; at most 100"):
        await decoder.decode(data_url(bytes(101)))
    await decoder.stop()


async def test_what_is_not_base64_is_refused_by_a_sentence(decoder: ImageDecoder) -> None:
    for payload in ("QQ*=", "Q\u00e9==", "\ud800"):
        with pytest.raises(ImageDecodeError, match="is not base64"):
            await decoder.decode(f"data:image/png;base64,{payload}")


async def test_foreign_schemes_never_reach_a_child() -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=100, max_pixels=100)
    with pytest.raises(ImageUrlSchemeError):
        await decoder.decode("https://example.com/cat.jpg")
    await decoder.stop()


async def test_the_pixel_limit_is_inclusive_also_when_odd() -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=1000, max_pixels=15)
    await decoder.start()
    assert (await decoder.decode(data_url(encoded(Image.new("L", (5, 3)), "PNG")))).width == 5
    with pytest.raises(ImageTooLargeError):
        await decoder.decode(data_url(encoded(Image.new("L", (4, 4)), "PNG")))
    await decoder.stop()


async def test_many_pictures_at_once_each_get_their_own(decoder: ImageDecoder) -> None:
    urls = [data_url(encoded(Image.new("RGB", (8, i + 1), (i, 0, 0)), "PNG")) for i in range(64)]
    pixels = await asyncio.gather(*(decoder.decode(url) for url in urls))
    assert [(p.height, p.data[0]) for p in pixels] == [(i + 1, i) for i in range(64)]


def children_of(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in listing for word in path.read_text().split()]


def decoding_children() -> list[int]:
    return [
        pid
        for pid in children_of(os.getpid())
        if b"server.images.decode_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def test_a_child_that_is_killed_costs_no_decode() -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=10 << 20, max_pixels=50_000_000)
    await decoder.start()
    large = data_url(encoded(Image.new("1", (7000, 7000)), "PNG"))
    decode = asyncio.create_task(decoder.decode(large))
    await asyncio.sleep(0.05)
    (pid,) = decoding_children()
    os.kill(pid, signal.SIGKILL)
    assert (await decode).height == 7000
    (other,) = decoding_children()
    os.kill(other, signal.SIGKILL)  # while idle
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256
    await decoder.stop()
    assert decoding_children() == []


async def test_a_picture_under_which_two_children_die_is_refused() -> None:
    decoder = ImageDecoder(num_processes=1, max_bytes=10 << 20, max_pixels=50_000_000)
    await decoder.start()
    large = data_url(encoded(Image.new("1", (7000, 7000)), "PNG"))
    decode = asyncio.create_task(decoder.decode(large))
    killed: set[int] = set()
    while not decode.done():
        for pid in set(decoding_children()) - killed if len(killed) < 2 else ():
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        await asyncio.sleep(0.002)
    with pytest.raises(ImageDecodeError, match="limits of time and memory"):
        await decode
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256
    await decoder.stop()


async def test_a_child_that_cannot_be_started_now_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_process(*_words: object, **_options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    decoder = ImageDecoder(num_processes=1, max_bytes=10 << 20, max_pixels=50_000_000)
    await decoder.start()
    await until(decoding_children)  # its command line shows a moment after its start
    (pid,) = decoding_children()
    os.kill(pid, signal.SIGKILL)
    num_files = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as short:
        short.setattr(subprocess, "Popen", no_process)
        for _ in range(2):
            with pytest.raises(OverloadedError, match="temporarily unavailable"):
                await decoder.decode(data_url(SOUND_PNG))
    assert len(os.listdir("/proc/self/fd")) <= num_files
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256
    await decoder.stop()


async def test_a_decode_beyond_its_time_ends_its_child() -> None:
    decoder = ImageDecoder(
        num_processes=1, max_bytes=10 << 20, max_pixels=50_000_000, max_seconds=0.05
    )
    await decoder.start()
    large = data_url(encoded(Image.new("L", (7000, 7000)), "PNG"))
    with pytest.raises(ImageDecodeError, match="limits of time and memory"):
        await decoder.decode(large)
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256
    await decoder.stop()


async def test_a_caller_that_leaves_does_not_disturb_the_next(decoder: ImageDecoder) -> None:
    large = data_url(encoded(Image.new("1", (5000, 5000)), "PNG"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(decoder.decode(large), 0.01)
    assert (await decoder.decode(data_url(SOUND_PNG))).height == 256


def test_a_child_imports_pillow_and_nothing_heavier() -> None:
    program = (
        "import sys, server.images.decode_process;"
        "print([m for m in ('torch', 'numpy', 'fastapi', 'pydantic', 'asyncio', 'structlog',"
        " 'server.domain', 'contract.engine') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=module_environment(),
        cwd=CODE_ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"
