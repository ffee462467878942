"""One server per data directory: a lock that the kernel frees whatever way its holder ends.

The lock file also says where the directory was when it was last served. A copy of it therefore
knows its original, and is refused while that one is served: both would call their steps the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from server.domain.clock import timestamp

LOCK_FILE = "lock"
PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600

_NAME_SECONDS = 1.0
"""How long a new holder may take to write its name after it has the lock."""

_LOOK_SECONDS = 0.02


class DataDirectoryError(Exception):
    """The data directory cannot be used; the message is a sentence for people."""


@contextmanager
def lock_data_directory(data_dir: Path, *, url: str | None = None) -> Generator[None]:
    """Create the directory and own it until the block ends.

    Args:
        url: Where we serve it, for others on this machine that look for us.

    Raises:
        DataDirectoryError: Another server has it, which is named; or it is a copy of one that is
            served; or it cannot be written.
    """
    path = data_dir / LOCK_FILE
    try:
        data_dir.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise DataDirectoryError(
            f"The data directory {data_dir} cannot be used: {error.strerror}."
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryError(
                f"The data directory {data_dir} belongs to {_holder(path)};"
                " stop that server or choose another --data-dir."
            ) from None
        _refuse_a_copy(data_dir, _facts(file.read()))
        file.seek(0)
        file.truncate()
        json.dump(_own_facts(data_dir, url), file)
        file.flush()
        yield


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a data directory now, as it says itself.

    Attributes:
        pid, host, started_at: None while it is just starting.
        url: Where it answers; None also where it is no server but a verb such as `import`.
    """

    pid: int | None = None
    host: str | None = None
    started_at: str | None = None
    url: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


def find_holder(data_dir: Path) -> Holder | None:
    """Say who has the lock of a data directory now, if somebody has; changes nothing."""
    if not is_served(data_dir):
        return None
    facts = _facts((data_dir / LOCK_FILE).read_text())
    if not _is_alive(facts):
        return Holder()
    return Holder(
        pid=int(facts["pid"]),
        host=str(facts["host"]),
        started_at=str(facts["started_at"]),
        url=facts.get("url"),
    )


def is_served(data_dir: Path) -> bool:
    """Whether some process has the lock of a data directory now."""
    try:
        file = (data_dir / LOCK_FILE).open()
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _refuse_a_copy(data_dir: Path, facts: dict[str, Any]) -> None:
    """Whoever was moved finds nothing at the place it remembers, and goes on from here."""
    original = Path(str(facts.get("directory", data_dir)))
    is_there = original.is_dir() and _inode(original) == facts.get("inode")
    if is_there and not original.samefile(data_dir) and is_served(original):
        raise DataDirectoryError(
            f"The data directory {data_dir} is a copy of {original}, which is served by"
            f" {_holder(original / LOCK_FILE)}. Stop that server first, or make a copy to work"
            " with by `moontune backup` and `moontune restore`."
        )


def _own_facts(data_dir: Path, url: str | None) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": timestamp(),
        "directory": str(data_dir.resolve()),
        "inode": _inode(data_dir),
        "url": url,
    }


def _inode(path: Path) -> int:
    return path.stat().st_ino


def _facts(text: str) -> dict[str, Any]:
    try:
        facts: Any = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}


def _holder(path: Path) -> str:
    """Say who holds a lock; waits a moment for one that has it and has not yet said so."""
    give_up_at = time.monotonic() + _NAME_SECONDS
    while True:
        facts = _facts(path.read_text())
        if _is_alive(facts):
            return (
                f"a running server (process {facts['pid']} on {facts['host']},"
                f" started {facts['started_at']})"
            )
        if time.monotonic() > give_up_at:
            return "a server that is just starting"
        time.sleep(_LOOK_SECONDS)


def _is_alive(facts: dict[str, Any]) -> bool:
    """Whether these facts can be those of the holder, not of one that ended before it."""
    if not {"pid", "host", "started_at"} <= facts.keys():
        return False
    if facts["host"] != socket.gethostname():
        return True  # on another machine; the lock says that it lives
    try:
        os.kill(int(facts["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
