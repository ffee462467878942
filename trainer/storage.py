"""The only code of the trainer that writes files: a file is there whole and durable, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import safetensors.torch
from torch import Tensor

from contract.engine import FileRef
from contract.errors import EngineFailed, StorageFull


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> FileRef:
    """Write a safetensors file: temporary file, fsync, rename, fsync of the directory.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        FileExistsError: The name is taken; names are never reused.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already; a state file is written once")
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"No space left for {len(data)} bytes of adapter state; free some and repeat the call."
            ) from error
        raise
    return FileRef(path=str(path), digest=hashlib.sha256(data).hexdigest(), num_bytes=len(data))


def read_tensors(file: FileRef) -> dict[str, Tensor]:
    """Read a file that a row names, and refuse it when its bytes are not the ones that were written.

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


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
