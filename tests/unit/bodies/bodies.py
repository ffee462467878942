"""Bodies for tests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator

from server.bodies.stored import StoredBody


def stored(content: bytes, *, in_file: bool = False) -> StoredBody:
    """A body that was received."""
    where: bytes | int = content
    if in_file:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            where = os.dup(file.fileno())
    return StoredBody(
        where,
        num_bytes=len(content),
        fingerprint=hashlib.sha256(content).digest(),
        on_end=lambda _body: None,
    )


async def chunks(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    """A body as it comes."""
    for at in range(0, len(content), size):
        yield content[at : at + size]
