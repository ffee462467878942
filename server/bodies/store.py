"""All bodies of one application: how much room they have, and which ones there are.

Small ones stay in memory, large ones go to a file, and what does not fit is held unread: TCP
keeps its sender waiting. What the disk cannot take is refused at once instead: nobody's end would
change that, and those behind it may need no disk.

The files have no names and lie in `{data_dir}/spool`, which is swept at the start all the same:
where a system cannot make a file without a name, it has one for an instant.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import structlog

from contract import disk
from contract.errors import StorageFull
from server.bodies.arrival import Arrival
from server.bodies.slices import slice_of
from server.bodies.stored import StoredBody
from server.budget import Budget
from server.domain.errors import BodyTooLargeError, StorageFullError

_log = structlog.get_logger("server.bodies")


class BodyStore:
    """Receives bodies and finds them again.

    Args:
        folder: Of the files; made when the first one is needed.
        max_bytes: Of all bodies, in memory and in files, as long as their calls last.
        max_memory_bytes: Of those in memory.
        min_free_bytes: What the files leave free on their disk.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_memory_bytes: int, min_free_bytes: int):
        self.room = Budget(max_bytes)
        self.memory = Budget(max_memory_bytes)
        self.num_unwritten_bytes = 0
        """Of what was promised to the disk and is not there yet."""
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._bodies: dict[str, StoredBody] = {}

    def sweep(self) -> None:
        """Remove what an earlier process left behind."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                path.unlink(missing_ok=True)

    async def receive(
        self,
        chunks: AsyncIterator[bytes],
        *,
        announced: int | None,
        max_bytes: int,
        within: float,
    ) -> StoredBody:
        """Read a body to its end; whoever gets it has to `release` it.

        Args:
            chunks: The body as it comes; what it raises is passed on.
            announced: How many bytes there will be, if that is known.
            max_bytes: Of this one.
            within: Seconds that it may be held unread.

        Raises:
            BodyTooLargeError: It has more than `max_bytes`.
            OverloadedError: There was no room for it in time.
            StorageFullError: It would need more of the disk than there is.
        """
        if announced is not None and announced > max_bytes:
            raise _too_large(max_bytes)
        arrival = Arrival(self, within=within)
        try:
            await arrival.expect(announced or 0)
            async for chunk in chunks:
                if arrival.num_bytes + len(chunk) > max_bytes:
                    raise _too_large(max_bytes)
                await arrival.add(chunk)
            body = await arrival.finish(on_end=self._bodies.pop)
        except BaseException:
            arrival.discard()
            raise
        self._bodies[body.id] = body
        return body

    def find(self, text: str) -> tuple[StoredBody, int, int] | None:
        """The body that a slice was cut from, and where; None if the text names no slice."""
        found = slice_of(text)
        if found is None or found.body_id not in self._bodies:
            return None
        return self._bodies[found.body_id], found.start, found.stop

    def hold(self, texts: Iterable[str]) -> ExitStack:
        """Keep the bodies that slices were cut from for the length of a `with` block."""
        bodies = {found[0].id: found[0] for text in texts if (found := self.find(text))}
        stack = ExitStack()
        for body in bodies.values():
            stack.enter_context(body.hold())
        return stack

    def make_file(self) -> BinaryIO:
        """A file without a name: it is gone when it is closed, however this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    def require_disk(self, num_bytes: int) -> None:
        """Refuse what would leave too little of the disk, with what is promised to others.

        Raises:
            StorageFullError: Naming bytes; the log has the path.
        """
        try:
            disk.require_space(
                self._folder,
                num_bytes=num_bytes + self.num_unwritten_bytes,
                min_free_bytes=self._min_free_bytes,
            )
        except StorageFull as full:
            raise _refusal(full) from full

    def disk_ended(self, num_bytes: int) -> StorageFullError:
        """The refusal when the disk had no space for so many bytes of a file."""
        return _refusal(disk.storage_full(self._folder, num_bytes=num_bytes))


def _refusal(full: StorageFull) -> StorageFullError:
    _log.error("storage_full", detail=str(full))
    return StorageFullError.of(full)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {max_bytes} bytes; send less at once.")
