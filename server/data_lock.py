"""One server per data directory: a lock that the kernel frees whatever way its holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path


class DataDirectoryError(Exception):
    """The data directory cannot be used; the message is a sentence for people."""


@contextmanager
def lock_data_directory(data_dir: Path) -> Generator[None]:
    """Create the directory and own it until the block ends.

    Raises:
        DataDirectoryError: Another server has it, which is named, or it cannot be written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataDirectoryError(
            f"The data directory {data_dir} cannot be used: {error.strerror}."
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryError(
                f"The data directory {data_dir} belongs to {_holder(file.read())};"
                " stop that server or choose another --data-dir."
            ) from None
        file.truncate()
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "started_at": started_at}
        json.dump(facts, file)
        file.flush()
        yield


def _holder(text: str) -> str:
    """Say who wrote the lock file; it may have been opened an instant before it was written."""
    try:
        facts = json.loads(text)
        return (
            f"a running server (process {facts['pid']} on {facts['host']},"
            f" started {facts['started_at']})"
        )
    except (ValueError, KeyError, TypeError):
        return "a server that is just starting"
