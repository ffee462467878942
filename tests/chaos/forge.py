"""What all bars of a run share: two zygotes, the micro model, and a folder for what is made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from server.children import CODE_ROOT, module_environment
from tests.chaos.waiting import until
from tests.chaos.zygote import KEEP_ORPHANS, MAX_MESSAGE_BYTES


class Fork:
    """A process that a zygote forked for us, and how it ended."""

    def __init__(self, connection: socket.socket, pid: int):
        self.pid = pid
        self._connection = connection
        self._status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        data = self._connection.recv(MAX_MESSAGE_BYTES)
        self._status = json.loads(data)["status"] if data else None
        self._connection.close()
        self._ended.set()

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def wait(self, seconds: float = 60.0) -> int:
        """Return its exit status, or minus the signal that ended it.

        Raises:
            AssertionError: It still lives.
        """
        assert self._ended.wait(seconds), f"process {self.pid} did not end in {seconds:g} s"
        assert self._status is not None, "the zygote died"
        return os.waitstatus_to_exitcode(self._status)


class ZygoteProcess:
    """A running `tests.chaos.zygote`."""

    def __init__(self, kind: str, folder: Path):
        self.path = folder / f"{kind}.sock"
        self._log = (folder / f"{kind}-zygote.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.chaos.zygote", kind, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=CODE_ROOT,
            env={**module_environment(), "OMP_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == b"ready\n", f"the zygote died, see {self._log.name}"

    def fork(
        self, argv: Sequence[str], environment: Mapping[str, str], fds: Sequence[int | IO[bytes]]
    ) -> Fork:
        """Have a process forked; `fds` become its stdout and stderr."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self.path))
        wish = {"argv": list(argv), "environment": dict(environment)}
        numbers = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
        socket.send_fds(connection, [json.dumps(wish).encode()], numbers)
        pid = json.loads(connection.recv(MAX_MESSAGE_BYTES))["pid"]
        return Fork(connection, pid)

    def close(self) -> None:
        """End it, and with it all its forks."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


class Forge:
    """Makes data directories and processes; closes what it made.

    Attributes:
        folder: Of everything; sockets lie in it, so its path is short.
        model: The checkpoint directory of the micro model.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = folder / "micro"
        self.server = ZygoteProcess("server", folder)
        self.trainer = ZygoteProcess("trainer", folder)
        self.trainer.until_ready()
        _write_model(self.trainer, self.model)
        self.server.until_ready()
        self._num_folders = 0

    def new_folder(self, name: str) -> Path:
        """Return a path that nothing has used."""
        self._num_folders += 1
        return self.folder / f"{self._num_folders:04d}-{name}"

    def keep_orphans(self, keep: bool) -> None:
        """Whether forked workers live on when the process that they stand for is killed."""
        mark = self.folder / KEEP_ORPHANS
        mark.touch() if keep else mark.unlink(missing_ok=True)

    def close(self) -> None:
        self.server.close()
        self.trainer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _write_model(trainer: ZygoteProcess, directory: Path) -> None:
    written = trainer.fork(["micro_checkpoint", str(directory)], {}, [2, 2])
    assert written.wait() == 0, "the micro model could not be written"


def process_is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until_dead(pid: int) -> None:
    """Wait until a process has ended."""
    until(lambda: not process_is_alive(pid), f"process {pid} has ended")
