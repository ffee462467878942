"""Decodes the pictures of one request, each distinct one once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from contract.skills import Pixels
from server.domain.errors import (
    ImageDecodeError,
    ImageTooLargeError,
    ImageUrlSchemeError,
    Loc,
)
from server.images.kept import PictureCounts


class ImageDecoder(Protocol):
    """Turns a data URL into pixels, in processes of its own, and keeps those of the last calls."""

    async def decode(self, image_url: str) -> Pixels:
        """Decode one picture.

        Raises:
            ImageUrlSchemeError: It is not a base64 data URL.
            ImageDecodeError: The bytes are no picture, or a damaged one.
            ImageTooLargeError: More bytes or pixels than allowed.
        """
        ...

    def counts(self) -> PictureCounts:
        """Say how many pictures were decoded, and how many did not need to be."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageUrl:
    """A picture of a request, and where it stands first."""

    url: str
    loc: Loc


class ImageUrls:
    """Collects the pictures of one request; equal strings get the same index."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}
        self._urls: list[ImageUrl] = []

    def add(self, url: str, loc: Loc) -> int:
        """Return the index under which skill requests name this picture."""
        index = self._indices.setdefault(url, len(self._urls))
        if index == len(self._urls):
            self._urls.append(ImageUrl(url=url, loc=loc))
        return index

    def collected(self) -> tuple[ImageUrl, ...]:
        """Every distinct picture, in the order of its index."""
        return tuple(self._urls)


async def decode_images(decoder: ImageDecoder, urls: Sequence[ImageUrl]) -> list[Pixels]:
    """Decode pictures together; the first faulty one, by position, refuses the request.

    Raises:
        ServiceError: One of the decoder's refusals, pointing at the place in the request.
    """
    tasks = [asyncio.ensure_future(_decode(decoder, image)) for image in urls]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    pixels: list[Pixels] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        pixels.append(outcome)
    return pixels


async def _decode(decoder: ImageDecoder, image: ImageUrl) -> Pixels:
    try:
        return await decoder.decode(image.url)
    except (ImageUrlSchemeError, ImageDecodeError, ImageTooLargeError) as error:
        raise error.at(image.loc) from error
