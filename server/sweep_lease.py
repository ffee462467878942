"""Who reads many files of a data directory keeps the sweeper from removing any of them meanwhile.

So does an import, whose files have no row yet.

A lock file, held shared by readers and alone by a sweep; the kernel frees it whatever way its
holder ends. A sweep that finds readers is postponed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LEASE_FILE = "sweep.lock"
_PRIVATE_FILE = 0o600


@contextmanager
def reading_all(data_dir: Path) -> Generator[None]:
    """Let no file of the directory be removed until the block ends; waits for a sweep that runs."""
    with _opened(data_dir) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def sweeping(data_dir: Path) -> Generator[bool]:
    """Say whether files may be removed until the block ends."""
    with _opened(data_dir) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _opened(data_dir: Path) -> Generator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(data_dir / LEASE_FILE, flags, _PRIVATE_FILE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
