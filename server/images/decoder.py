"""From an `image_url` to pixels: off the event loop, and never in this process."""

from __future__ import annotations

import asyncio
import hashlib
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from contract.skills import Pixels
from server.images.data_url import as_ascii, payload_of
from server.images.decode_child import DecodeChild
from server.images.kept import KeptPictures, PictureCounts

T = TypeVar("T")

MAX_DECODE_SECONDS = 15.0
MAX_KEPT_BYTES = 256 << 20


class ImageDecoder:
    """A pool of decoding children, each fed by one thread, behind the pictures that are kept.

    Args:
        num_processes: How many pictures are decoded at once; the others wait in order.
        max_bytes: Of one file.
        max_pixels: Of one picture, width x height.
        max_seconds: Of one decode.
        max_kept_bytes: Of all decoded pictures that are kept for the next call.
    """

    def __init__(
        self,
        *,
        num_processes: int,
        max_bytes: int,
        max_pixels: int,
        max_seconds: float = MAX_DECODE_SECONDS,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._num_processes = num_processes
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._max_seconds = max_seconds
        self._threads = ThreadPoolExecutor(num_processes, thread_name_prefix="decode")
        self._kept = KeptPictures(max_bytes=max_kept_bytes)
        self._children: queue.SimpleQueue[DecodeChild] = queue.SimpleQueue()

    async def start(self) -> None:
        """Start the children."""
        loop = asyncio.get_running_loop()
        starts = [
            loop.run_in_executor(self._threads, self._start_child)
            for _ in range(self._num_processes)
        ]
        await asyncio.gather(*starts)

    async def stop(self) -> None:
        """Let what is queued end, then end the children. Harmless before `start` and twice."""
        await asyncio.to_thread(self._threads.shutdown)
        while not self._children.empty():
            self._children.get().close()

    async def measure(self, image_url: str | bytes) -> int:
        """How many bytes the pixels of a base64 data URL will take, by its header alone.

        Raises as `decode`; damage after the header is not found.
        """
        return await self._run(lambda: self._measure(payload_of(as_ascii(image_url))))

    async def decode(self, image_url: str | bytes) -> Pixels:
        """Decode a base64 data URL; characters that are not ASCII make it none.

        Raises:
            ImageUrlSchemeError: It is not a base64 data URL.
            ImageDecodeError: It is not a sound JPEG, PNG, WebP or GIF file.
            ImageTooLargeError: Too many bytes or pixels.
        """
        return await self._run(lambda: self._decode(payload_of(as_ascii(image_url))))

    def counts(self) -> PictureCounts:
        """How often a picture was found among those that are kept, since the start."""
        return self._kept.counts()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _start_child(self) -> None:
        child = DecodeChild(
            max_bytes=self._max_bytes, max_pixels=self._max_pixels, max_seconds=self._max_seconds
        )
        self._children.put(child)

    def _measure(self, payload: memoryview) -> int:
        child = self._children.get()
        try:
            height, width = child.measure(payload)
        finally:
            self._children.put(child)
        return height * width * 3

    def _decode(self, payload: memoryview) -> Pixels:
        """The picture of one file, in a thread."""
        digest = hashlib.sha256(payload).hexdigest()
        return self._kept.get(digest, lambda: self._decode_anew(payload, digest))

    def _decode_anew(self, payload: memoryview, digest: str) -> Pixels:
        """One decode. There are as many threads as children, so one is always idle."""
        child = self._children.get()
        try:
            height, width, data = child.decode(payload)
        finally:
            self._children.put(child)
        return Pixels(height=height, width=width, digest=digest, data=data)
