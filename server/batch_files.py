"""The files of batches: their names, who is writing them, and their removal.

    {data_dir}/batches/{batch_id}/part-{number:05d}-{token}.jsonl       what came
                                  answers-{line:06d}-{token}.jsonl      answers that count, by chunk
                                  output-{index:04d}-{token}.jsonl      the results

A file counts only when a row of `batch_files` names it. Names are never used twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from contract import disk, durable
from contract.engine import FileRef
from contract.errors import StorageFull
from server import sweep_lease
from server.domain.errors import StorageFullError

T = TypeVar("T")

FOLDER = "batches"
_ULID_FOLDER = re.compile(r"[0-9A-Z]{26}")
_TOKEN_BYTES = 6
_log = structlog.get_logger("server.files")


class BatchFiles:
    """The folder of batches.

    Args:
        min_free_bytes: What its files leave free on their disk.
    """

    def __init__(self, data_dir: Path, *, min_free_bytes: int = 0):
        self._data_dir = data_dir.resolve()
        self._root = self._data_dir / FOLDER
        self._min_free_bytes = min_free_bytes
        self._held: Counter[str] = Counter()

    def new_part(self, batch_id: str, number: int) -> Path:
        """Choose the path of a part of an upload."""
        return self._new(batch_id, f"part-{number:05d}")

    def new_answers(self, batch_id: str, first_line: int) -> Path:
        """Choose the path of the answers to some lines."""
        return self._new(batch_id, f"answers-{first_line:06d}")

    def new_output(self, batch_id: str, index: int) -> Path:
        """Choose the path of a file of results."""
        return self._new(batch_id, f"output-{index:04d}")

    async def write(
        self, path: Path, blocks: Callable[[], Iterable[bytes]], num_bytes: int
    ) -> FileRef:
        """Write a file in a thread; hold its path meanwhile.

        Args:
            blocks: What it holds, asked for once, in the thread.
            num_bytes: About as many there will be.

        Returns:
            The file as rows name it, relative to the data directory.

        Raises:
            StorageFullError: Too little of the disk would stay free, or it ended; nothing is left.
            OSError: The disk failed; nothing is left.
        """

        def work() -> FileRef:
            disk.require_space(
                self._data_dir, num_bytes=num_bytes, min_free_bytes=self._min_free_bytes
            )
            return durable.write_blocks(path, blocks(), num_bytes=num_bytes)

        try:
            written = await _to_its_end(work)
        except StorageFull as full:
            _log.error("storage_full", detail=str(full))
            raise StorageFullError.of(full) from full
        return dataclasses.replace(written, path=str(path.relative_to(self._data_dir)))

    @contextmanager
    def hold(self, *paths: Path) -> Generator[None]:
        """Keep files that no row names yet from being swept."""
        names = [path.name for path in paths]
        self._held.update(names)
        try:
            yield
        finally:
            self._held.subtract(names)
            self._held += Counter[str]()  # drops the zeros

    def absolute(self, file: FileRef) -> FileRef:
        """Return a reference as it can be opened."""
        return dataclasses.replace(file, path=str(self._data_dir / file.path))

    def sweeping(self) -> AbstractContextManager[bool]:
        """Whether files may be removed until the block ends: nobody else reads all of them."""
        return sweep_lease.sweeping(self._data_dir)

    def batch_ids(self) -> list[str]:
        """Return the batches that have a folder."""
        if not self._root.is_dir():
            return []
        return [path.name for path in self._root.iterdir() if _ULID_FOLDER.fullmatch(path.name)]

    def list_idle(self, batch_id: str) -> list[Path]:
        """Return the files of a batch that nobody holds, left-overs of dead writers included.

        One that is released meanwhile has its row already, if it gets one at all.
        """
        folder = self._root / batch_id
        if not folder.is_dir():
            return []
        paths = list(folder.iterdir())
        held = tuple(self._held)  # after the list: whatever is in it was held before
        return [path for path in paths if not any(name in path.name for name in held)]

    def remove(self, batch_id: str, paths: Iterable[Path]) -> int:
        """Remove files, and the folder if it is left empty; return how many files went."""
        num_removed = sum(durable.remove(path) for path in paths)
        durable.remove_empty(self._root / batch_id)
        return num_removed

    def unneeded(self, idle: Iterable[Path], named: Iterable[str]) -> list[Path]:
        """Return those that no row names."""
        kept = {self._data_dir / path for path in named}
        return [path for path in idle if path not in kept]

    def _new(self, batch_id: str, stem: str) -> Path:
        return self._root / batch_id / f"{stem}-{secrets.token_hex(_TOKEN_BYTES)}.jsonl"


async def _to_its_end(work: Callable[[], T]) -> T:
    """Run in a thread; who is cancelled waits all the same, so that nobody writes unheld."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise
