"""Room on a disk: how much is free, and the refusal when it is not enough."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from contract.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers that say so."""


def free_bytes(path: Path) -> int:
    """What we may still write on the disk of a path, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def require_space(path: Path, *, num_bytes: int, min_free_bytes: int) -> None:
    """Refuse to begin what would leave less than `min_free_bytes` on the disk of a path.

    Raises:
        StorageFull: Naming what is needed and what is free.
    """
    free = free_bytes(path)
    if free - num_bytes < min_free_bytes:
        raise StorageFull(
            f"{num_bytes} bytes are to be written and {min_free_bytes} are to stay free on the disk"
            f" of {path}, which has {free}",
            needed_bytes=num_bytes + min_free_bytes,
            free_bytes=free,
        )


def storage_full(path: Path, *, num_bytes: int) -> StorageFull:
    """The refusal after a disk ended in the middle of a write of so many bytes."""
    free = free_bytes(path)
    return StorageFull(
        f"no space for {num_bytes} bytes on the disk of {path}, which has {free} free",
        needed_bytes=num_bytes,
        free_bytes=free,
    )
