"""The lines of a batch, read across the parts in which it came. Blocks; to be used in threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contract.engine import FileRef
from server.services.batches.errors import BatchFailedError, BatchFault

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a line lies: from `start` to before `stop`, without its line feed.

    `next` is where the one after it begins.
    """

    index: int
    start: int
    stop: int
    next: int

    @property
    def num_bytes(self) -> int:
        """Of the line."""
        return self.stop - self.start


class BatchInput:
    """The parts of a batch as if they were one file.

    Args:
        parts: Absolute, in order.
    """

    def __init__(self, parts: Sequence[FileRef]):
        self._parts = parts
        self.num_bytes = sum(part.num_bytes for part in parts)

    def count_lines(self, *, max_lines: int, max_line_bytes: int) -> int:
        """Read everything once: compare it with its digests, and count its lines.

        A line feed at the end ends the last line and begins none.

        Raises:
            BatchFailedError: There are too many lines or none, one is too long, or a part is
                damaged.
        """
        num_lines = length = 0
        for part in self._parts:
            digest = hashlib.sha256()
            for block in _blocks(part):
                digest.update(block)
                at = 0
                while True:
                    end = block.find(b"\n", at)
                    length += (len(block) if end < 0 else end) - at
                    if length > max_line_bytes:
                        raise BatchFailedError(
                            BatchFault.LIMIT_EXCEEDED,
                            f"Line {num_lines} is longer than {max_line_bytes} bytes (lines count"
                            " from 0). Send smaller pictures.",
                        )
                    if end < 0:
                        break
                    num_lines, length, at = num_lines + 1, 0, end + 1
                    _require_few(num_lines, max_lines)
            if digest.hexdigest() != part.digest:
                raise BatchFailedError(
                    BatchFault.PROCESSING_FAILED,
                    "A part of the upload is damaged on the server's disk. Upload the batch again.",
                )
        num_lines += length > 0
        _require_few(num_lines, max_lines)
        if not num_lines:
            raise BatchFailedError(
                BatchFault.EMPTY_BATCH, "The batch has no lines; send one JSON object a line."
            )
        return num_lines

    def spans(self, *, index: int, start: int, at_most: int) -> list[Span]:
        """Return where some lines lie, beginning with line `index`, which begins at `start`."""
        found: list[Span] = []
        begin = at = start
        for block in self._blocks_from(start):
            search = 0
            while len(found) < at_most and (end := block.find(b"\n", search)) >= 0:
                stop = at + end
                found.append(Span(index=index, start=begin, stop=stop, next=stop + 1))
                index, begin, search = index + 1, stop + 1, end + 1
            at += len(block)
            if len(found) == at_most:
                return found
        if begin < self.num_bytes:
            found.append(Span(index=index, start=begin, stop=self.num_bytes, next=self.num_bytes))
        return found

    def read(self, span: Span) -> bytes:
        """Return the bytes of a line."""
        pieces: list[bytes] = []
        left = span.num_bytes
        for block in self._blocks_from(span.start, at_once=max(left, 1)):
            pieces.append(block[:left])
            left -= len(pieces[-1])
            if not left:
                break
        return b"".join(pieces)

    def _blocks_from(self, start: int, *, at_once: int = BLOCK_BYTES) -> Iterator[bytes]:
        before = 0
        for part in self._parts:
            if start < before + part.num_bytes:
                yield from _blocks(part, max(start - before, 0), at_once=at_once)
            before += part.num_bytes


def _blocks(part: FileRef, start: int = 0, *, at_once: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The bytes of a part from somewhere on.

    Raises:
        BatchFailedError: It is shorter than its row says, or gone.
    """
    at = start
    try:
        with open(part.path, "rb", buffering=0) as file:
            while at < part.num_bytes:
                block = os.pread(file.fileno(), min(at_once, part.num_bytes - at), at)
                if not block:
                    break
                at += len(block)
                yield block
    except FileNotFoundError:
        pass
    if at < part.num_bytes:
        raise BatchFailedError(
            BatchFault.PROCESSING_FAILED,
            "A part of the upload is missing on the server's disk. Upload the batch again.",
        )


def _require_few(num_lines: int, max_lines: int) -> None:
    if num_lines > max_lines:
        raise BatchFailedError(
            BatchFault.LIMIT_EXCEEDED,
            f"The batch has more than {max_lines} lines. Send several batches.",
        )
