"""What the checks ask of the machine, in one place, so that a test can be any machine."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract import disk
from server.children import module_environment
from server.domain.clock import now_ms

TRAINER_SECONDS = 180


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a child ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine, or one that a test makes up.

    Attributes:
        environment: Of this process.
        python: Its version.
        encoding: Of what it prints.
        uid: Of its user.
        hostname: Of the machine.
        proc: The process file system.
        temporary: Where temporary files go.
        max_open_files: That the service may raise itself to.
        now_ms: The time of day.
        free_bytes: Of the disk of a path, which need not exist yet.
        may_write: Whether we may make files in a folder.
        owner_of: The user of a path.
        run: Runs a child that only looks.
    """

    environment: Mapping[str, str]
    python: tuple[int, int]
    encoding: str
    uid: int
    hostname: str
    proc: Path
    temporary: Path
    max_open_files: int
    now_ms: Callable[[], int]
    free_bytes: Callable[[Path], int]
    may_write: Callable[[Path], bool]
    owner_of: Callable[[Path], int]
    run: Callable[[Sequence[str]], Ran]


def this_machine() -> Machine:
    """The one that we run on."""
    return Machine(
        environment=os.environ,
        python=(sys.version_info.major, sys.version_info.minor),
        encoding=sys.stdout.encoding or "ascii",
        uid=os.geteuid(),
        hostname=socket.gethostname(),
        proc=Path("/proc"),
        temporary=_temporary(),
        max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        now_ms=now_ms,
        free_bytes=disk.free_bytes,
        may_write=_may_write,
        owner_of=lambda path: path.lstat().st_uid,
        run=_run,
    )


def _temporary() -> Path:
    """The folder that programs would take; the library wants to write there to find it."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # none of them can be written
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _may_write(folder: Path) -> bool:
    try:
        is_read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False
    return not is_read_only and os.access(folder, os.W_OK | os.X_OK)


def _run(command: Sequence[str]) -> Ran:
    try:
        ended = subprocess.run(
            command,
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRAINER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran(status=-1, out="", err=f"it did not end within {TRAINER_SECONDS} seconds")
    return Ran(status=ended.returncode, out=ended.stdout, err=ended.stderr)
