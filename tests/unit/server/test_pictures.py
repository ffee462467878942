"""The size of a picture is read from its beginning; what is wrong there is found on arrival."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contract.work import WorkClass
from server.bodies.slices import find_cuts
from server.bodies.store import BodyStore
from server.domain.errors import (
    BatchTooLargeError,
    ImageTooLargeError,
    OverloadedError,
    ServiceError,
)
from server.images.decoder import ImageDecoder
from server.services.images import ImageUrl
from server.services.pictures import CallPictures, Pictures
from tests.service import until
from tests.unit.bodies.bodies import chunks
from tests.unit.images.files import data_url, encoded

pytestmark = pytest.mark.anyio

MIB = 1 << 20
LIMIT = 4 * MIB


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Seen(ImageDecoder):
    """The real decoder, which notes how much it was given to measure; it may be made to wait."""

    def __init__(self) -> None:
        super().__init__(num_processes=1, max_bytes=LIMIT, max_pixels=50_000_000)
        self.lengths: list[int] = []
        self.num_now = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def measure(self, image_url: str | bytes) -> int:
        self.lengths.append(len(image_url))
        self.num_now += 1
        self.most_at_once = max(self.most_at_once, self.num_now)
        try:
            await self.gate.wait()
            return await super().measure(image_url)
        finally:
            self.num_now -= 1


@pytest.fixture
async def decoder(anyio_backend: str) -> AsyncIterator[Seen]:
    decoder = Seen()
    await decoder.start()
    yield decoder
    await decoder.stop()


async def received(decoder: Seen, folder: Path, *urls: str) -> CallPictures:
    bodies = BodyStore(folder, max_bytes=1 << 30, max_memory_bytes=64 * MIB, min_free_bytes=0)
    pictures = Pictures(
        decoder,
        bodies,
        max_step_bytes=MIB,
        max_answer_bytes=64 * MIB,
        max_batch_bytes=MIB,
        max_call_bytes=64 * MIB,
        max_at_once=2,
        max_file_bytes=LIMIT,
    )
    content = json.dumps([{"image_url": url} for url in urls]).encode()
    body = await bodies.receive(chunks(content), announced=None, max_bytes=1 << 30, within=1)
    cuts = find_cuts(body)
    assert len(cuts) == len(urls)
    images = [ImageUrl(url=str(cut.slice), loc=("body", "image_url")) for cut in cuts]
    return pictures.of(images, WorkClass.ROLLOUTS)


def noise(format: str, **options: Any) -> bytes:
    picture = Image.frombytes("RGB", (900, 800), os.urandom(900 * 800 * 3))
    return encoded(picture, format, **options)


@pytest.mark.parametrize(
    ("format", "options", "is_read_whole"),
    [
        ("PNG", {}, False),
        ("JPEG", {"quality": 100}, False),
        ("WEBP", {"lossless": True}, None),
    ],
)
async def test_a_large_picture_is_measured_as_it_is_decoded(
    decoder: Seen, tmp_path: Path, format: str, options: dict[str, Any], is_read_whole: bool | None
) -> None:
    url = data_url(noise(format, **options))
    own = await received(decoder, tmp_path, url)
    await own.measure(within=60.0)
    assert own.num_bytes == 900 * 800 * 3
    if is_read_whole is not None:
        assert (decoder.lengths[-1] == len(url)) is is_read_whole
    async with own.decoded(within=60.0) as (pixels,):
        assert len(pixels.data) == own.num_bytes


async def test_a_file_that_is_too_large_is_refused_on_arrival(
    decoder: Seen, tmp_path: Path
) -> None:
    own = await received(decoder, tmp_path, data_url(noise("PNG") + bytes(LIMIT)))
    with pytest.raises(ImageTooLargeError) as caught:
        await own.measure(within=60.0)
    assert caught.value.loc == ("body", "image_url")


@pytest.mark.parametrize("start", ["data:image/png,", "data:image/png;base64,!"])
async def test_what_is_no_picture_is_refused_on_arrival(
    decoder: Seen, tmp_path: Path, start: str
) -> None:
    own = await received(decoder, tmp_path, start + "A" * MIB)
    with pytest.raises(ServiceError) as caught:
        await own.measure(within=60.0)
    assert caught.value.loc == ("body", "image_url")


async def test_who_cannot_be_looked_at_in_time_is_refused(decoder: Seen, tmp_path: Path) -> None:
    own = await received(decoder, tmp_path, data_url(noise("PNG")))
    with pytest.raises(OverloadedError, match="not looked at"):
        await own.measure(within=0.0)


async def test_a_text_that_is_far_too_long_is_not_read(decoder: Seen, tmp_path: Path) -> None:
    own = await received(decoder, tmp_path, "data:image/png;base64," + "A" * 3 * LIMIT)
    with pytest.raises(ImageTooLargeError, match=f"larger than {LIMIT} bytes") as caught:
        await own.measure(within=60.0)
    assert caught.value.loc == ("body", "image_url")
    assert not decoder.lengths


async def test_nor_is_one_that_was_not_cut_from_its_body(decoder: Seen, tmp_path: Path) -> None:
    url = "data:image/png;base64," + "A" * 3 * LIMIT
    own = several(decoder, tmp_path, [url], max_call_bytes=MIB)
    with pytest.raises(ImageTooLargeError, match=f"larger than {LIMIT} bytes") as caught:
        await own.measure(within=60.0)
    assert caught.value.loc == ("body", 0)
    assert not decoder.lengths


def several(decoder: Seen, folder: Path, urls: list[str], *, max_call_bytes: int) -> CallPictures:
    pictures = Pictures(
        decoder,
        BodyStore(folder, max_bytes=MIB, max_memory_bytes=MIB, min_free_bytes=0),
        max_step_bytes=MIB,
        max_answer_bytes=MIB,
        max_batch_bytes=MIB,
        max_call_bytes=max_call_bytes,
        max_at_once=2,
        max_file_bytes=LIMIT,
    )
    images = [ImageUrl(url=url, loc=("body", index)) for index, url in enumerate(urls)]
    return pictures.of(images, WorkClass.TRAINING)


@pytest.mark.parametrize("verb", ["measure", "decode"])
async def test_a_single_picture_does_not_wait_for_all_those_of_a_large_step(
    decoder: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """One decoding process takes one after another, in the order in which they were given to it."""
    urls = [data_url(encoded(Image.new("RGB", (8, 8), (n, 0, 0)), "PNG")) for n in range(31)]
    order: list[str] = []
    line = asyncio.Lock()  # first come, first served, as the decoder's own

    async def work(image_url: str | bytes) -> Any:
        async with line:
            await asyncio.sleep(0.002)
            order.append(str(image_url))
            return 1

    monkeypatch.setattr(decoder, verb, work)
    step = several(decoder, tmp_path, urls[:30], max_call_bytes=MIB)
    single = several(decoder, tmp_path, urls[30:], max_call_bytes=MIB)

    async def do(own: CallPictures) -> None:
        if verb == "measure":
            await own.measure(within=60.0)
        else:
            async with own.decoded(within=60.0):
                pass

    large = asyncio.create_task(do(step))
    await asyncio.sleep(0.003)
    await do(single)
    position = order.index(urls[30])
    assert position <= 5, f"it came after {position} others"
    await large
    assert order[:position] + order[position + 1 :] == urls[:30]


async def test_the_pixels_of_one_call_have_a_limit(decoder: Seen, tmp_path: Path) -> None:
    sizes = ((10, 10), (30, 20), (20, 20))
    urls = [data_url(encoded(Image.new("RGB", size), "PNG")) for size in sizes]
    most = sum(3 * width * height for width, height in sizes)
    await several(decoder, tmp_path, urls, max_call_bytes=most).measure(within=60.0)
    with pytest.raises(BatchTooLargeError, match=f"need {most} bytes.*have {most - 1}") as caught:
        await several(decoder, tmp_path, urls, max_call_bytes=most - 1).measure(within=60.0)
    assert caught.value.loc == ("body", 1)
    assert len(caught.value.message) <= 300


async def test_no_more_pictures_than_set_are_in_memory_to_be_measured(
    decoder: Seen, tmp_path: Path
) -> None:
    picture = noise("PNG")
    urls = [data_url(picture + bytes([index])) for index in range(8)]
    own = await received(decoder, tmp_path, *urls)
    decoder.gate.clear()
    measured = asyncio.create_task(own.measure(within=60.0))
    await until(lambda: decoder.num_now == 2)
    await asyncio.sleep(0.05)  # for a third one, which must not come
    decoder.gate.set()
    await measured
    assert len(decoder.lengths) == len(urls)
    assert decoder.most_at_once == 2
