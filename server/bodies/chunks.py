"""What came of a body and is in no file yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO

SMALL_BYTES = 4 << 10
"""Smaller chunks are joined, so that a body that comes in drops takes no more than its bytes."""

MAX_AT_ONCE = 512
"""Buffers that are written by one call; Linux allows 1,024."""


class Chunks:
    """Large chunks as they came, since joining takes the event loop time; small ones joined."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._chunks: list[bytes | bytearray] = []

    def add(self, chunk: bytes) -> None:
        """Take in what came."""
        self.num_bytes += len(chunk)
        if len(chunk) >= SMALL_BYTES:
            self._chunks.append(chunk)
        elif self._chunks and isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += chunk
        else:
            self._chunks.append(bytearray(chunk))

    def take(self) -> list[bytes | bytearray]:
        """All of it, in order; nothing is left."""
        taken, self._chunks, self.num_bytes = self._chunks, [], 0
        return taken


def write_all(file: BinaryIO, chunks: Sequence[bytes | bytearray]) -> None:
    """Append chunks to a file, in order, whatever the system takes at once.

    Raises:
        OSError: As of `write`; the file may have got some of it.
        ValueError: It was closed meanwhile; its number may be another file's by now.
    """
    rest = [memoryview(chunk) for chunk in chunks if chunk]
    while rest:
        num_written = os.writev(file.fileno(), rest[:MAX_AT_ONCE])
        while rest and num_written >= len(rest[0]):
            num_written -= len(rest.pop(0))
        if num_written:
            rest[0] = rest[0][num_written:]
