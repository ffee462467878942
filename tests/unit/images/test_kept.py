"""Decoded pictures are kept, and no picture is decoded twice at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from contract.skills import Pixels
from server.domain.errors import ImageDecodeError
from server.images.decoder import ImageDecoder
from server.images.kept import KeptPictures, PictureCounts
from tests.unit.images.files import data_url, encoded


class Decodes:
    """Makes pictures of as many bytes as it is told; remembers of which files."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    def get(self, kept: KeptPictures, digest: str, num_bytes: int = 3) -> Pixels:
        def decode() -> Pixels:
            self.digests.append(digest)
            return Pixels(height=1, width=num_bytes // 3, digest=digest, data=bytes(num_bytes))

        return kept.get(digest, decode)


def test_a_picture_is_decoded_once() -> None:
    kept, decodes = KeptPictures(max_bytes=30), Decodes()
    first = decodes.get(kept, "a")
    assert decodes.get(kept, "a") is first
    decodes.get(kept, "b")
    assert decodes.digests == ["a", "b"]
    assert kept.counts() == PictureCounts(hits=1, misses=2)


def test_the_picture_that_was_asked_for_longest_ago_goes_first() -> None:
    kept, decodes = KeptPictures(max_bytes=30), Decodes()
    for digest in ("a", "b", "a"):
        decodes.get(kept, digest, 15)
    decodes.get(kept, "c", 15)  # `b` has to go
    decodes.get(kept, "a", 15)
    decodes.get(kept, "b", 15)  # `c` has to go
    decodes.get(kept, "a", 15)
    assert decodes.digests == ["a", "b", "c", "b"]


def test_no_more_bytes_are_kept_than_may_be() -> None:
    kept, decodes = KeptPictures(max_bytes=30), Decodes()
    for digest in ("a", "b", "c"):
        decodes.get(kept, digest, 9)
    decodes.get(kept, "large", 30)  # all the others have to go
    decodes.get(kept, "large", 30)
    decodes.get(kept, "too large", 33)
    decodes.get(kept, "too large", 33)
    decodes.get(kept, "large", 30)
    decodes.get(kept, "c", 9)
    assert decodes.digests == ["a", "b", "c", "large", "too large", "too large", "c"]


def test_refusals_are_not_kept() -> None:
    kept, decodes = KeptPictures(max_bytes=30), Decodes()

    def refuse() -> Pixels:
        decodes.digests.append("a")
        raise ImageDecodeError("Damaged.")

    for _ in range(2):
        with pytest.raises(ImageDecodeError):
            kept.get("a", refuse)
    decodes.get(kept, "a")
    assert decodes.digests == ["a", "a", "a"]


@pytest.mark.parametrize("is_sound", [True, False], ids=["sound", "damaged"])
def test_who_asks_during_a_decode_waits_for_it(is_sound: bool) -> None:
    kept, num_decodes = KeptPictures(max_bytes=30), 0
    is_decoding, may_end = threading.Event(), threading.Event()
    picture = Pixels(height=1, width=1, digest="a", data=bytes(3))

    def decode() -> Pixels:
        nonlocal num_decodes
        num_decodes += 1
        is_decoding.set()
        may_end.wait()
        if not is_sound:
            raise ImageDecodeError("Damaged.")
        return picture

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(kept.get, "a", decode)
        is_decoding.wait()
        others = [threads.submit(kept.get, "a", decode) for _ in range(3)]
        while kept.counts().hits < 3:  # until all of them have asked
            threading.Event().wait(0.001)
        may_end.set()
        for asked in (first, *others):
            if is_sound:
                assert asked.result() is picture
            else:
                with pytest.raises(ImageDecodeError):
                    asked.result()
    assert num_decodes == 1


@pytest.mark.anyio
async def test_equal_files_are_decoded_once_however_they_are_written(decoder: ImageDecoder) -> None:
    file = encoded(Image.new("RGB", (8, 4), (1, 2, 3)), "PNG")
    urls = [data_url(file), data_url(file, "image/x"), data_url(file) + "\n"]
    pictures = await asyncio.gather(*(decoder.decode(url) for url in urls * 5))
    assert all(picture is pictures[0] for picture in pictures)
    assert decoder.counts() == PictureCounts(hits=14, misses=1)
    other = encoded(Image.new("RGB", (8, 4), (1, 2, 4)), "PNG")
    assert (await decoder.decode(data_url(other))).data[:3] == bytes([1, 2, 4])


@pytest.mark.anyio
async def test_damaged_files_are_looked_at_again(decoder: ImageDecoder) -> None:
    for _ in range(2):
        with pytest.raises(ImageDecodeError):
            await decoder.decode(data_url(b"no picture"))
    assert decoder.counts() == PictureCounts(hits=0, misses=2)
