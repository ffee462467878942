"""One body while it is coming: held until there is room, hashed, kept in memory or in a file."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Protocol

from contract.disk import FULL
from server.bodies.chunks import Chunks, write_all
from server.bodies.stored import StoredBody
from server.budget import Budget
from server.domain.errors import OverloadedError, StorageFullError

FILE_ABOVE_BYTES = 8 << 20
"""Larger bodies lie in a file, however empty the memory is."""

NEVER_HELD_BYTES = 64 << 10
"""Smaller ones are read at once: a call that says little must not wait for those that say much."""

_STEP_BYTES = 1 << 20
_writers = ThreadPoolExecutor(2, thread_name_prefix="spool")


class Room(Protocol):
    """What an arrival needs of the store."""

    room: Budget
    memory: Budget
    num_unwritten_bytes: int

    def make_file(self) -> BinaryIO:
        """A file without a name."""
        ...

    def require_disk(self, num_bytes: int) -> None:
        """Refuse what would leave too little of the disk."""
        ...

    def disk_ended(self, num_bytes: int) -> StorageFullError:
        """The refusal when the disk had no space."""
        ...


class Arrival:
    """Collects one body; `finish` or `discard` ends it."""

    def __init__(self, store: Room, *, within: float):
        self.num_bytes = 0
        self._store = store
        self._within = within
        self._hash = hashlib.sha256()
        self._chunks = Chunks()
        self._file: BinaryIO | None = None
        self._num_reserved = 0
        self._num_in_memory = 0
        self._num_unwritten = 0

    async def expect(self, num_bytes: int) -> None:
        """Wait for room for a body whose length is known.

        Raises:
            OverloadedError: There was none in time.
            StorageFullError: There is none on the disk.
        """
        await self._reserve(num_bytes)
        if num_bytes > FILE_ABOVE_BYTES:
            await self._move_to_file()

    async def add(self, chunk: bytes) -> None:
        """Take in what came."""
        self.num_bytes += len(chunk)
        if self.num_bytes > self._num_reserved:  # its length was not announced
            await self._grow()
        self._chunks.add(chunk)
        if self._file is None and not self._has_memory(len(chunk)):
            await self._move_to_file()
        if self._file is not None and self._chunks.num_bytes >= _STEP_BYTES:
            await self._write()

    async def finish(self, *, on_end: Callable[[str, None], object]) -> StoredBody:
        """Return the body, which has everything that this one had."""
        if self._file is None:
            content: bytes | int = b"".join(self._chunks.take())
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_writers, self._hash.update, content)
        else:
            await self._write()
            content = os.dup(self._file.fileno())
            self._file.close()
            self._store.num_unwritten_bytes -= self._num_unwritten
        room, memory = self._store.room, self._store.memory
        num_reserved, num_in_memory = self._num_reserved, self._num_in_memory

        def end(body: StoredBody) -> None:
            on_end(body.id, None)
            memory.give_back(num_in_memory)
            room.give_back(num_reserved)

        return StoredBody(
            content, num_bytes=self.num_bytes, fingerprint=self._hash.digest(), on_end=end
        )

    def discard(self) -> None:
        """Give back what it had; the body ends in the middle, or is not wanted."""
        if self._file is not None:
            self._file.close()
        self._chunks.take()
        self._store.num_unwritten_bytes -= self._num_unwritten
        self._store.memory.give_back(self._num_in_memory)
        self._store.room.give_back(self._num_reserved)

    async def _grow(self) -> None:
        """Have room for more than was known of; only who has none yet waits for it.

        Two that have some and wait for more would wait for each other.
        """
        if not self._num_reserved:
            is_small = self.num_bytes <= NEVER_HELD_BYTES
            await self._reserve(self.num_bytes + (0 if is_small else _STEP_BYTES))
            return
        more = self.num_bytes + _STEP_BYTES - self._num_reserved
        room = self._store.room
        if not room.try_take(more):
            raise OverloadedError(
                f"The body came without Content-Length and there is no room for the rest of it: the"
                f" bodies of other calls have {room.used - self._num_reserved} of {room.limit}"
                f" bytes and {room.num_waiting} more wait, or the disk for them is full. Send its"
                " length, or ask again later."
            )
        self._num_reserved += more
        self._note_unwritten()

    async def _reserve(self, num_bytes: int) -> None:
        if num_bytes <= max(self._num_reserved, NEVER_HELD_BYTES):
            return
        if num_bytes > FILE_ABOVE_BYTES:
            self._require_disk(num_bytes)  # before it waits, and others behind it
        more = num_bytes - self._num_reserved
        room = self._store.room
        try:
            await room.take(more, within=self._within)
        except TimeoutError:
            raise OverloadedError(
                f"The body was not read for {self._within:g} s: the bodies of other calls have"
                f" {room.used} of {room.limit} bytes and {room.num_waiting} more wait."
                " Ask again later."
            ) from None
        self._num_reserved += more
        self._note_unwritten()

    def _has_memory(self, num_more: int) -> bool:
        if self.num_bytes > FILE_ABOVE_BYTES or not self._store.memory.try_take(num_more):
            return False
        self._num_in_memory += num_more
        return True

    async def _move_to_file(self) -> None:
        if self._file is None:
            self._require_disk(max(self._num_reserved, self.num_bytes))
            self._file = self._make_file()
            self._note_unwritten()
            self._store.memory.give_back(self._num_in_memory)
            self._num_in_memory = 0
            await self._write()

    async def _write(self) -> None:
        """Append what was collected, in a thread.

        Raises:
            StorageFullError: The disk is full.
        """
        assert self._file is not None
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                _writers, _append, self._file, self._chunks.take(), self._hash
            )
        except OSError as error:
            raise self._refusal(error) from error
        self._note_unwritten()

    def _make_file(self) -> BinaryIO:
        try:
            return self._store.make_file()
        except OSError as error:
            raise self._refusal(error) from error

    def _require_disk(self, num_bytes: int) -> None:
        """Refuse what the disk cannot take if the body has so many bytes; small ones it can."""
        if num_bytes > NEVER_HELD_BYTES:
            self._store.require_disk(num_bytes - self._num_written - self._num_unwritten)

    def _refusal(self, error: OSError) -> Exception:
        """What becomes of an error of the file: shortages are foreseen, nothing else is."""
        if error.errno in FULL:
            return self._store.disk_ended(max(self._num_reserved, self.num_bytes))
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return OverloadedError("The server has too many files open; nothing was changed.")
        return error

    @property
    def _num_written(self) -> int:
        return 0 if self._file is None else self.num_bytes - self._chunks.num_bytes

    def _note_unwritten(self) -> None:
        now = 0 if self._file is None else max(0, self._num_reserved - self._num_written)
        self._store.num_unwritten_bytes += now - self._num_unwritten
        self._num_unwritten = now


def _append(
    file: BinaryIO,
    chunks: list[bytes | bytearray],
    fingerprint: hashlib._Hash,  # pyright: ignore[reportPrivateUsage] -- it has no public name
) -> None:
    for chunk in chunks:
        fingerprint.update(chunk)
    write_all(file, chunks)
