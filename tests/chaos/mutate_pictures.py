"""Changes picture files at random, as somebody would who looks for the end of a decoder.

Checksums of PNG chunks are put right again, so that what was changed is read and not refused.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
MAX_CHANGES = 6
_EXTREMES = (0, 1, 2, 3, 4, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
             0x80000000, 0xFFFFFFFF)  # fmt: skip


class Mutator:
    """An endless source of files, each made of one or two sound ones.

    Args:
        seeds: The files to start from.
    """

    def __init__(self, seeds: Sequence[bytes], draw: random.Random):
        self._seeds = seeds
        self._random = draw

    def next(self) -> bytes:
        data = bytearray(self._random.choice(self._seeds))
        for _ in range(self._random.randint(1, MAX_CHANGES)):
            self._random.choice(
                (self._flip, self._put, self._number, self._drop, self._repeat, self._splice)
            )(data)
            if not data:
                return b"\xff"
        if data.startswith(PNG_HEAD) and self._random.random() < 0.9:
            return with_checksums(bytes(data))
        return bytes(data)

    def _place(self, data: bytearray) -> int:
        """Anywhere, but the beginning, where the sizes are, more often."""
        end = len(data) if self._random.random() < 0.5 else min(len(data), 64)
        return self._random.randrange(end)

    def _flip(self, data: bytearray) -> None:
        data[self._place(data)] ^= 1 << self._random.randrange(8)

    def _put(self, data: bytearray) -> None:
        data[self._place(data)] = self._random.randrange(256)

    def _number(self, data: bytearray) -> None:
        """A number of two or four bytes in either order."""
        value, order = self._random.choice(_EXTREMES), self._random.choice("<>")
        width = "I" if value > 0xFFFF or self._random.random() < 0.5 else "H"
        packed = struct.pack(order + width, value)
        at = self._place(data)
        data[at : at + len(packed)] = packed

    def _drop(self, data: bytearray) -> None:
        at = self._place(data)
        del data[at : at + self._random.randint(1, 64)]

    def _repeat(self, data: bytearray) -> None:
        at = self._place(data)
        part = data[at : at + self._random.randint(1, 64)]
        data[at:at] = bytes(part) * self._random.choice((1, 2, 50))

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._seeds)
        at, start = self._place(data), self._random.randrange(len(other))
        data[at:] = other[start:]


def with_checksums(png: bytes) -> bytes:
    """The same PNG with the checksum of each chunk as it ought to be."""
    parts, at = [PNG_HEAD], len(PNG_HEAD)
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        if len(body) < 4 + length or at + 12 + length > len(png):
            break
        parts.append(png[at : at + 4] + body + struct.pack("!I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + png[at:]
