"""One body that was received: its bytes in memory or in a file, as long as somebody holds it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

BLOCK_BYTES = 256 << 10


class StoredBody:
    """Bytes that do not change any more; read from any thread while they are held.

    Args:
        content: The bytes, or the descriptor of a file that has no name: it is gone when it is
            closed, however this process ends.
        on_end: Called once, when the last holder has let go.
    """

    def __init__(
        self,
        content: bytes | int,
        *,
        num_bytes: int,
        fingerprint: bytes,
        on_end: Callable[[StoredBody], None],
    ):
        self.id = secrets.token_hex(16)
        self.num_bytes = num_bytes
        self.fingerprint = fingerprint
        self.received_at = time.monotonic()
        """When its last byte was there; the patience of its sender counts from then."""
        self._content = content
        self._on_end = on_end
        self._num_holders = 1

    @property
    def is_in_file(self) -> bool:
        """Whether its bytes are in a file."""
        return isinstance(self._content, int)

    def read(self, start: int, num_bytes: int) -> bytes:
        """Some of its bytes; fewer at its end."""
        assert self._num_holders > 0, "nobody holds this body any more"
        if isinstance(self._content, bytes):
            return self._content[start : start + num_bytes]
        parts: list[bytes] = []
        while num_bytes > 0 and (part := os.pread(self._content, num_bytes, start)):
            parts.append(part)
            start += len(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, some at a time."""
        for at in range(start, stop, BLOCK_BYTES):
            yield self.read(at, min(BLOCK_BYTES, stop - at))

    @contextmanager
    def hold(self) -> Generator[None]:
        """Keep it for the length of a block, whoever else lets go of it."""
        assert self._num_holders > 0, "nobody holds this body any more"
        self._num_holders += 1
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let go; the last one ends it."""
        self._num_holders -= 1
        if self._num_holders:
            return
        if isinstance(self._content, int):
            os.close(self._content)
        self._content = b""
        self._on_end(self)
