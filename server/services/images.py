"""What the services know of pictures: who decodes them, and which ones a request has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contract.skills import Pixels
from server.domain.errors import Loc
from server.images.kept import PictureCounts


class ImageDecoder(Protocol):
    """Turns a data URL into pixels, in processes of its own, and keeps those of the last calls."""

    async def measure(self, image_url: str | bytes) -> int:
        """Say how many bytes the pixels will take, by the header alone; raises as `decode`."""
        ...

    async def decode(self, image_url: str | bytes) -> Pixels:
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
