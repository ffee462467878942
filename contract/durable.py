"""The one writer: all that creates, renames or removes state files, in both processes.

A file is there whole and durable, or not at all:

    a temporary file beside it: create, write, fsync
    rename                      it has its name only now
    fsync of the directory      and keeps it

Nobody may name a file in a row before this has returned. A failed fsync may have lost pages, and
the next one may succeed all the same: so none is ever repeated, the file is given up. Hashing runs
beside the writing, files that belong together are written side by side and share one fsync of their
directory. `tests/unit/contract/test_one_writer.py` names who else may touch files, and why.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contract import faults
from contract.disk import FULL, storage_full
from contract.engine import FileRef

_BATCH_BYTES = 16 << 20
_BATCH_BUFFERS = 512  # below the kernel's limit of 1,024
_BLOCK_BYTES = 1 << 20

Buffer = bytes | memoryview
Kind = Literal["make_directory", "create", "write", "sync", "rename", "sync_directory", "remove"]


NOT_READABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""What opening a file raises that was removed, replaced or locked away; it does not pass."""


class DamagedFileError(Exception):
    """A file does not hold what its digest says."""


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to be written.

    Attributes:
        path: Its name, used once.
        buffers: What it holds, piece by piece, as bytes; read by two threads while it is written.
    """

    path: Path
    buffers: Sequence[Buffer]

    @property
    def num_bytes(self) -> int:
        return sum(len(buffer) for buffer in self.buffers)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Something that was done to the disk, for tests that ask what a power cut would leave.

    Attributes:
        data: What a write appended.
        target: The new name after a rename.
    """

    kind: Kind
    path: Path
    data: bytes = b""
    target: Path | None = None


_watcher: Callable[[Operation], None] | None = None
_flushed: set[Path] = set()
"""Directories whose entries are on the disk."""


@contextmanager
def watched(watcher: Callable[[Operation], None]) -> Generator[None]:
    """Have every operation of this process told, after it was done; for tests."""
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def write_file(path: Path, data: Buffer) -> FileRef:
    """Write one file; see `write_files`."""
    return write_files([NewFile(path=path, buffers=[data])])[0]


def write_files(files: Sequence[NewFile]) -> list[FileRef]:
    """Write files that belong together: all of them, or none.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        OSError: The disk failed; nothing is left behind.
        FileExistsError: A name is taken; names are never reused.
    """
    for file in files:
        if file.path.exists():
            raise FileExistsError(f"{file.path} exists already; such a file is written once")
    num_bytes = sum(file.num_bytes for file in files)
    with _all_or_none([file.path for file in files], num_bytes):
        digests = _write_side_by_side(files)
        _give_names([file.path for file in files])
    return [
        FileRef(path=str(file.path), digest=digest, num_bytes=file.num_bytes)
        for file, digest in zip(files, digests, strict=True)
    ]


def write_blocks(path: Path, blocks: Iterable[bytes], *, num_bytes: int) -> FileRef:
    """Write one file of blocks that are read while it is written, and hashed on the way.

    Args:
        num_bytes: About as many there will be, for the refusal when the disk ends.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        OSError: The disk failed; nothing is left behind. So it is when `blocks` raises.
        FileExistsError: The name is taken; names are never reused.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; such a file is written once")
    digest = hashlib.sha256()
    num_written = 0

    def hashed() -> Generator[bytes]:
        nonlocal num_written
        for block in blocks:
            digest.update(block)
            num_written += len(block)
            yield block

    with _all_or_none([path], num_bytes):
        _write_temporary(path, hashed())
        _give_names([path])
    return FileRef(path=str(path), digest=digest.hexdigest(), num_bytes=num_written)


def copy_file(source: FileRef, path: Path) -> FileRef:
    """Copy a file, which has its new name only when it is what its digest says.

    Raises:
        DamagedFileError: The source is gone or holds something else; nothing is left behind.
        StorageFull: There is no space; nothing is left behind.
        OSError: The disk failed; nothing is left behind.
    """
    digest = hashlib.sha256()

    def blocks() -> Generator[bytes]:
        try:
            with Path(source.path).open("rb") as reading:
                while block := reading.read(_BLOCK_BYTES):
                    digest.update(block)
                    yield block
        except NOT_READABLE as error:
            raise DamagedFileError(f"{source.path} cannot be read: {error.strerror}") from error

    with _all_or_none([path], source.num_bytes):
        _write_temporary(path, blocks())
        if digest.hexdigest() != source.digest:
            raise DamagedFileError(f"{source.path} is damaged: its SHA-256 differs")
        _give_names([path])
    return dataclasses.replace(source, path=str(path))


def rename(path: Path, target: Path) -> None:
    """Give a durable file or directory its name, durably."""
    _rename(path, target)
    sync(target.parent)


def remove(path: Path) -> bool:
    """Remove a file; whether it was there.

    Not made durable: what comes back after a power cut has no row and is removed again.
    """
    with suppress(FileNotFoundError):
        faults.point("file.remove")
        path.unlink()
        _tell("remove", path)
        return True
    return False


def remove_empty(directory: Path) -> None:
    """Remove a directory unless something is in it."""
    with suppress(OSError):
        directory.rmdir()


def sync(path: Path) -> None:
    """Wait until a directory, or a file, is on the disk as it is."""
    is_directory = path.is_dir()
    faults.point("file.sync_directory" if is_directory else "file.sync")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _tell("sync_directory" if is_directory else "sync", path)


def sync_tree(directory: Path) -> None:
    """Make the files of a directory durable, and then the directory; it has no folders."""
    for path in directory.iterdir():
        sync(path)
    sync(directory)


def make_directory(directory: Path) -> list[Path]:
    """Have a directory and all above it, durably; returns those that were missing.

    One that is there may be the work of a process that died before its fsync, so each process has
    the entry of every directory flushed once, as far up as it might have made it.
    """
    if directory in _flushed and directory.is_dir():
        return []
    if directory.is_dir() and not os.access(directory.parent, os.W_OK):
        return []
    made: list[Path] = []
    if directory != directory.parent:
        made = make_directory(directory.parent)
        if not directory.is_dir():
            faults.point("file.create")
            directory.mkdir(exist_ok=True)
            made.append(directory)
            _tell("make_directory", directory)
        try:
            sync(directory.parent)
        except OSError:
            for folder in reversed(made):
                remove_empty(folder)
            raise
    _flushed.add(directory)
    return made


@contextmanager
def _all_or_none(paths: Sequence[Path], num_bytes: int) -> Generator[None]:
    """Leave nothing of these files when the block fails, and say so if the disk is full."""
    made: list[Path] = []
    try:
        for folder in {path.parent: None for path in paths}:
            made += make_directory(folder)
        yield
    except BaseException as error:
        for path in paths:
            for left in (_temporary(path), path):
                with suppress(OSError):  # the sweeper takes what cannot be removed now
                    remove(left)
        for folder in reversed(made):
            remove_empty(folder)
        if isinstance(error, OSError) and error.errno in FULL:
            raise storage_full(paths[0].parent, num_bytes=num_bytes) from error
        raise


def _write_side_by_side(files: Sequence[NewFile]) -> list[str]:
    """Write and hash each in threads of its own; returns the digests when all are on the disk."""
    with ThreadPoolExecutor(2 * len(files), thread_name_prefix="durable") as threads:
        writing = [threads.submit(_write_temporary, file.path, file.buffers) for file in files]
        hashing = [threads.submit(_digest, file.buffers) for file in files]
        wait(writing)  # nobody may give up a file that is still written
        for written in writing:
            written.result()
        return [hashed.result() for hashed in hashing]


def _write_temporary(path: Path, buffers: Iterable[Buffer]) -> None:
    temporary = _temporary(path)
    descriptor = _create(temporary)
    try:
        for batch in _batches(buffers):
            faults.point("file.write")
            _write_batch(descriptor, list(batch))
            _tell("write", temporary, batch)
        faults.point("file.sync")
        os.fsync(descriptor)
        _tell("sync", temporary)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    """Open a new file; its directory may have gone with the last file of another writer."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    faults.point("file.create")
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        make_directory(path.parent)
        descriptor = os.open(path, flags, 0o666)
    _tell("create", path)
    return descriptor


def _write_batch(descriptor: int, batch: list[memoryview]) -> None:
    """Write all of it; one call may take less, when the disk ends, say."""
    while batch:
        written = os.writev(descriptor, batch)
        while batch and written >= len(batch[0]):
            written -= len(batch.pop(0))
        if written:
            batch[0] = batch[0][written:]


def _batches(buffers: Iterable[Buffer]) -> Generator[list[memoryview]]:
    """Few large calls of many small buffers, and none that the kernel would cut."""
    batch: list[memoryview] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), _BATCH_BYTES):
            piece = view[start : start + _BATCH_BYTES]
            if batch and (size + len(piece) > _BATCH_BYTES or len(batch) == _BATCH_BUFFERS):
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
    if batch:
        yield batch


def _digest(buffers: Sequence[Buffer]) -> str:
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def _give_names(paths: Sequence[Path]) -> None:
    for path in paths:
        _rename(_temporary(path), path)
    for folder in {path.parent: None for path in paths}:
        sync(folder)


def _rename(path: Path, target: Path) -> None:
    faults.point("file.rename")
    path.rename(target)
    _tell("rename", path, target=target)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _tell(
    kind: Kind,
    path: Path,
    batch: Sequence[memoryview] = (),
    target: Path | None = None,
) -> None:
    if _watcher is not None:
        _watcher(Operation(kind=kind, path=path, data=b"".join(batch), target=target))
