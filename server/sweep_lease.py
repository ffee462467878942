"""Who reads many files of a data directory keeps the sweeper from removing any of them meanwhile.

So does an import, whose files have no row yet.

A lock file, held shared by readers and alone by the process that sweeps; the kernel frees it
whatever way its holder ends. A sweep that finds readers is postponed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LEASE_FILE = "sweep.lock"
_PRIVATE_FILE = 0o600

_lock = threading.Lock()
_descriptors: dict[Path, int] = {}
_num_sweeps: Counter[Path] = Counter()
"""Of this process, by directory: sweeps of different files share one lease."""


@contextmanager
def reading_all(data_dir: Path) -> Generator[None]:
    """Let no file of the directory be removed until the block ends; waits for sweeps that run."""
    descriptor = _open(data_dir)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def sweeping(data_dir: Path) -> Generator[bool]:
    """Say whether files may be removed until the block ends."""
    may_remove = _begin_sweep(data_dir)
    try:
        yield may_remove
    finally:
        if may_remove:
            _end_sweep(data_dir)


def _begin_sweep(data_dir: Path) -> bool:
    with _lock:
        if not _num_sweeps[data_dir]:
            descriptor = _open(data_dir)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            _descriptors[data_dir] = descriptor
        _num_sweeps[data_dir] += 1
        return True


def _end_sweep(data_dir: Path) -> None:
    with _lock:
        _num_sweeps[data_dir] -= 1
        if not _num_sweeps[data_dir]:
            del _num_sweeps[data_dir]
            os.close(_descriptors.pop(data_dir))


def _open(data_dir: Path) -> int:
    return os.open(data_dir / LEASE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
