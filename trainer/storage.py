"""All writing of files in the trainer: each is there whole and durable, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from contract.engine import FileRef
from contract.errors import EngineFailed, StorageFull


def write_all(
    files: Mapping[Path, Mapping[str, Tensor]], facts: Mapping[str, str]
) -> list[FileRef]:
    """Write files that belong together: all of them, or none.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        FileExistsError: A name is taken; names are never reused.
    """
    written: list[FileRef] = []
    try:
        for path, tensors in files.items():
            written.append(write_tensors(path, tensors, facts))
    except BaseException:
        for file in written:
            Path(file.path).unlink(missing_ok=True)
        raise
    return written


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> FileRef:
    """Write a safetensors file durably.

    Equal tensors and facts give equal bytes, and so the same digest.

    Args:
        facts: For people who look into the file; nothing reads them.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        FileExistsError: The name is taken; names are never reused.
    """
    # One entry, because safetensors writes several in an order that changes from call to call.
    metadata = {"moontune": json.dumps(dict(facts), sort_keys=True)}
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata
    )
    return write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> FileRef:
    """Write a file durably; it has its name only when it is complete.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        FileExistsError: The name is taken; names are never reused.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; such a file is written once")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _make_directory(path.parent)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        # A failed fsync may lose pages although the next one succeeds: discard the file.
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"No space left for {len(data)} bytes of adapter state; free some and repeat "
                "the call."
            ) from error
        raise
    return FileRef(path=str(path), digest=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


def read_tensors(file: FileRef) -> dict[str, Tensor]:
    """Read a file that a row names, and refuse it when its bytes are not the ones that were
    written.

    Raises:
        EngineFailed: The file is missing or damaged.
    """
    try:
        data = Path(file.path).read_bytes()
    except FileNotFoundError as error:
        raise EngineFailed(f"The state file {file.path} is missing.") from error
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise EngineFailed(f"The state file {file.path} is damaged: its SHA-256 differs.")
    return safetensors.torch.load(data)


def sync_tree(directory: Path) -> None:
    """Make the files of a directory durable, and then the directory; it has no folders."""
    for path in directory.iterdir():
        sync_directory(path)
    sync_directory(directory)


def _make_directory(directory: Path) -> None:
    """Create a directory and what is missing above it, durably."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Wait until a directory, or a file, is on the disk as it is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
