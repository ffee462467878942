"""Decoded pictures that are kept: the same file comes again with every call that speaks of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from contract.skills import Pixels


@dataclass(frozen=True, kw_only=True)
class PictureCounts:
    """How many pictures were asked for and found, or on their way, and how many were decoded."""

    hits: int
    misses: int


class KeptPictures:
    """The pictures that were asked for last, by the SHA-256 of their base64; for many threads.

    Args:
        max_bytes: Of all pixels together; a larger picture is not kept.
    """

    def __init__(self, *, max_bytes: int):
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._coming: dict[str, Future[Pixels]] = {}
        self._num_hits = 0
        self._num_misses = 0
        self._lock = threading.Lock()

    def get(self, digest: str, decode: Callable[[], Pixels]) -> Pixels:
        """Return the picture; who asks while another thread decodes it waits for that one.

        What `decode` raises is raised to all who wait for it, and not kept.
        """
        with self._lock:
            if digest in self._kept:
                self._num_hits += 1
                self._kept.move_to_end(digest)
                return self._kept[digest]
            coming = self._coming.get(digest)
            if coming is not None:
                self._num_hits += 1
            else:
                self._num_misses += 1
                self._coming[digest] = Future()
        return self._bring(digest, decode) if coming is None else coming.result()

    def counts(self) -> PictureCounts:
        """Since the start."""
        with self._lock:
            return PictureCounts(hits=self._num_hits, misses=self._num_misses)

    def _bring(self, digest: str, decode: Callable[[], Pixels]) -> Pixels:
        """Decode for everybody who waits."""
        try:
            picture = decode()
        except BaseException as error:
            with self._lock:
                coming = self._coming.pop(digest)
            coming.set_exception(error)
            raise
        with self._lock:
            coming = self._coming.pop(digest)
            self._keep(digest, picture)
        coming.set_result(picture)
        return picture

    def _keep(self, digest: str, picture: Pixels) -> None:
        if len(picture.data) > self._max_bytes:
            return
        self._kept[digest] = picture
        self._num_bytes += len(picture.data)
        while self._num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= len(oldest.data)
