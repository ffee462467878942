"""The files of adapter states: their names, who is using them, and their removal.

The only module that decides which files go. The trainer writes them, or they are copied here; rows
say which of them count.

    {data_dir}/finetunes/{finetune_id}/{step:08d}-{token}.weights.safetensors
                                                         .optimizer.safetensors
                                                         .exchange.pt
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import structlog

from contract import disk, durable
from contract.durable import DamagedFileError
from contract.engine import FileRef
from contract.errors import StorageFull
from server import sweep_lease
from server.config import FINETUNES_FOLDER
from server.domain.errors import StateDamagedError, StorageFullError

_log = structlog.get_logger("server.files")

_ULID_FOLDER = re.compile(r"[0-9A-Z]{26}")
_TOKEN_BYTES = 6
_FIRST_WEIGHTS = re.compile(rf"0{{8}}-[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.weights\.safetensors")


@dataclass(frozen=True, kw_only=True)
class OutputPaths:
    """Where one attempt at one step writes; absolute, never used before."""

    weights: str
    optimizer: str


class StateFiles:
    """The folder of adapter states.

    Files are held while a call may read or write them. Holding and sweeping both happen under
    `lock`, so that no file goes away between the reading of a row and the use of what it names.
    """

    def __init__(self, data_dir: Path, *, min_free_bytes: int = 0):
        self._data_dir = data_dir.resolve()
        self._min_free_bytes = min_free_bytes
        self._root = self._data_dir / FINETUNES_FOLDER
        self._held: Counter[str] = Counter()
        self.lock = asyncio.Lock()

    async def require_space(self, num_bytes: int) -> None:
        """Refuse work that would write so much that too little of the disk stays free.

        Raises:
            StorageFullError: Naming bytes; the log has the path.
        """
        try:
            await asyncio.to_thread(
                disk.require_space,
                self._data_dir,
                num_bytes=num_bytes,
                min_free_bytes=self._min_free_bytes,
            )
        except StorageFull as full:
            raise _refusal(full) from full

    def new_output(self, finetune_id: str, step: int) -> OutputPaths:
        """Choose the paths of one attempt at a step, whose folder the trainer makes."""
        folder = self._root / finetune_id
        stem = f"{step:08d}-{secrets.token_hex(_TOKEN_BYTES)}"
        return OutputPaths(
            weights=str(folder / f"{stem}.weights.safetensors"),
            optimizer=str(folder / f"{stem}.optimizer.safetensors"),
        )

    def new_weights(self, finetune_id: str) -> str:
        """Choose the path of the weights that a finetune starts from."""
        return self.new_output(finetune_id, 0).weights

    def new_exchange(self, finetune_id: str, step: int) -> str:
        """Choose the path of an exchange file."""
        stem = f"{step:08d}-{secrets.token_hex(_TOKEN_BYTES)}"
        return str(self._root / finetune_id / f"{stem}.exchange.pt")

    @contextmanager
    def hold(self, paths: Iterable[str]) -> Generator[None]:
        """Keep files, and those being written for them, from being swept; enter under `lock`."""
        stems = [_stem(path) for path in paths]
        self._held.update(stems)
        try:
            yield
        finally:
            self._held.subtract(stems)
            self._held += Counter[str]()  # drops the zeros

    def sweeping(self) -> AbstractContextManager[bool]:
        """Whether files may be removed until the block ends: nobody else reads all of them."""
        return sweep_lease.sweeping(self._data_dir)

    def finetune_ids(self) -> list[str]:
        """Return the finetunes that have a folder."""
        if not self._root.is_dir():
            return []
        return [
            path.name
            for path in self._root.iterdir()
            if path.is_dir() and _ULID_FOLDER.fullmatch(path.name)
        ]

    def list_begun(self, finetune_id: str) -> list[Path] | None:
        """Return the files of a finetune that has no more than the weights to start from.

        None if it has others: then it was trained.
        """
        paths = list((self._root / finetune_id).iterdir())
        is_begun = all(_FIRST_WEIGHTS.fullmatch(_without_temporary(path.name)) for path in paths)
        return paths if is_begun else None

    def remove_begun(self, finetune_id: str, paths: Iterable[Path]) -> None:
        """Remove the files of such a finetune and its folder."""
        self.remove(paths)
        durable.remove_empty(self._root / finetune_id)

    def held(self) -> frozenset[str]:
        """Return what begins the names of held files, temporary ones included."""
        return frozenset(self._held)

    def list_idle(self, finetune_id: str, held: frozenset[str]) -> list[Path]:
        """Return the files of a finetune that nobody holds, left-overs of dead writers included."""
        folder = self._root / finetune_id
        if not folder.is_dir():
            return []
        return [
            path
            for path in folder.iterdir()
            if path.is_file() and not any(stem in path.name for stem in held)
        ]

    def remove(self, paths: Iterable[Path]) -> int:
        """Remove files, then folders left empty; return how many files went."""
        num_removed = 0
        for path in paths:
            num_removed += durable.remove(path)
            durable.remove_empty(path.parent)
        return num_removed

    def stored(self, ref: FileRef) -> FileRef:
        """Return a reference as rows keep it: relative to the data directory."""
        return dataclasses.replace(ref, path=str(Path(ref.path).relative_to(self._data_dir)))

    @overload
    def absolute(self, ref: FileRef) -> FileRef: ...
    @overload
    def absolute(self, ref: None) -> None: ...
    def absolute(self, ref: FileRef | None) -> FileRef | None:
        """Return a reference as the trainer needs it."""
        return ref and dataclasses.replace(ref, path=str(self._data_dir / ref.path))

    def absolute_paths(self, stored_paths: Iterable[str]) -> set[Path]:
        """Return where files lie that rows name."""
        return {self._data_dir / path for path in stored_paths}


def is_intact(file: FileRef) -> bool:
    """Whether a file is there, and what its row says; reads it whole."""
    try:
        if os.stat(file.path).st_size != file.num_bytes:
            return False
        with open(file.path, "rb") as reading:
            return hashlib.file_digest(reading, "sha256").hexdigest() == file.digest
    except OSError:
        return False


def copy_file(source: FileRef, target: Path) -> FileRef:
    """Copy a file durably; it has its name only when it is whole and what the row says.

    Raises:
        StorageFullError: There is no space; nothing is left.
        StateDamagedError: The source is missing or damaged.
    """
    try:
        return durable.copy_file(source, target)
    except StorageFull as full:
        raise _refusal(full) from full
    except DamagedFileError as damaged:
        _log.error("state_damaged", detail=str(damaged))
        raise StateDamagedError from damaged


def _refusal(full: StorageFull) -> StorageFullError:
    _log.error("storage_full", detail=str(full))
    return StorageFullError.of(full)


def _stem(path: str) -> str:
    """`.../00000012-a1b2c3d4e5f6.weights.safetensors` -> `00000012-a1b2c3d4e5f6`."""
    return Path(path).name.split(".", maxsplit=1)[0]


def _without_temporary(name: str) -> str:
    """The name that a file has or, while it is written, will have."""
    return name[1:].removesuffix(".tmp") if name.startswith(".") else name
