"""The worker as a child process: how it is started, watched and ended.

It gets one end of a socket pair and nothing else to talk through: no port, no pickle. It leads a
process group of its own, so that Ctrl-C in a terminal reaches the service alone, which then stops
the worker in order. When the service dies, the worker reads the end of its socket and has to go.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from contract import faults
from server.channel import Channel
from server.children import environment_without_secrets, module_command
from server.config import ServerConfig
from server.resources import find

MAX_LOG_BYTES = 16 << 20
TAIL_BYTES = 8 << 10
MAX_LINE_CHARACTERS = 300
STUCK_SECONDS = 10.0
"""So long after SIGKILL a process is said not to end."""


@dataclass(frozen=True, kw_only=True)
class WorkerLaunch:
    """How to start a worker.

    Attributes:
        command: From the number of its socket's file descriptor and its epoch to an argv.
        log_path: Receives its stdout and stderr. A log over 16 MiB is moved to `<name>.1` at the
            next start; it is not cut while a worker writes to it.
    """

    command: Callable[[int, int], Sequence[str]]
    log_path: Path


def model_options(config: ServerConfig) -> list[str]:
    """Which model the trainer takes, and where; `tiny` is the checkpoint that travels with us."""
    is_tiny = config.model == "tiny"
    facts = {
        "model": find("tiny/checkpoint") if is_tiny else config.model,
        "models-dir": config.models_dir,
        "device": config.device,
        "dtype": config.dtype,
    }
    if is_tiny:
        facts["name"] = "tiny"
    return [word for name, value in facts.items() for word in (f"--{name}", str(value))]


def trainer_command(config: ServerConfig) -> Callable[[int, int], Sequence[str]]:
    """The command of the real worker, `python -m trainer`."""
    lives = itertools.count()

    def command(fd: int, epoch: int) -> Sequence[str]:
        ours = ("--fd", str(fd), "--epoch", str(epoch))
        share = ("--train-share", str(config.train_share))
        spec = config.fault if next(lives) == 0 else faults.for_later_lives(config.fault)
        fault = ("--fault", spec) if spec else ()
        return module_command("trainer", *ours, *model_options(config), *share, *fault)

    return command


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """How a worker ended: its status as `subprocess` reports it, and its last lines of output."""

    status: int
    last_lines: tuple[str, ...]

    @property
    def how(self) -> str:
        """Such as `exit status 3` or `signal SIGKILL`."""
        if self.status < 0:
            return f"signal {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    @property
    def last_line(self) -> str:
        """The last thing it said, shortened; empty when that was nothing, or an event of its log
        (a JSON object), which was dealt with and is no last word.
        """
        said = self.last_lines[-1] if self.last_lines else ""
        return "" if said.startswith("{") else said[:MAX_LINE_CHARACTERS]


class WorkerStuckError(Exception):
    """A worker that was killed does not end."""


class WorkerProcess:
    """One started worker; `channel` is our end of its socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, log_path: Path, log_start: int
    ) -> None:
        self._process = process
        self._log_path = log_path
        self._log_start = log_start
        self.channel = channel
        self.on_stuck: Callable[[], bool] = lambda: True
        """Asked now and then whether to go on waiting, while it does not end although it was
        killed: it sits in the kernel, mostly in the driver of its device."""

    @classmethod
    async def start(cls, launch: WorkerLaunch, *, epoch: int) -> WorkerProcess:
        """Start one; it is not ready yet.

        Raises:
            OSError: The operating system refuses, or the log cannot be written.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, _open_log(launch.log_path) as log:
                log_start = log.tell()
                process = await asyncio.create_subprocess_exec(
                    *launch.command(theirs.fileno(), epoch),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    env=environment_without_secrets(),
                    process_group=0,
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, Channel(ours), launch.log_path, log_start)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> WorkerEnd:
        """Wait until it has ended."""
        status = await self._process.wait()
        return WorkerEnd(status=status, last_lines=self._last_lines())

    async def end(self, *, grace_seconds: float, term_seconds: float = 2.0) -> WorkerEnd:
        """Have it gone: wait for its own end, then SIGTERM, then SIGKILL; harmless twice.

        Raises:
            WorkerStuckError: It does not end, and `on_stuck` gave it up.
        """
        for seconds, send in (
            (grace_seconds, self._process.terminate),
            (term_seconds, self._process.kill),
        ):
            if self._process.returncode is None:
                try:
                    await asyncio.wait_for(self._process.wait(), seconds)
                except TimeoutError:
                    with suppress(ProcessLookupError):
                        send()
        while self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), STUCK_SECONDS)
            except TimeoutError:
                if not self.on_stuck():
                    raise WorkerStuckError(f"Process {self.pid} does not end.") from None
        return await self.wait()

    def _last_lines(self, count: int = 20) -> tuple[str, ...]:
        with self._log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            start = log.seek(max(self._log_start, end - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        if start > self._log_start:
            del lines[:1]  # the end of a line
        return tuple(line.rstrip() for line in lines if line.strip())[-count:]


def _open_log(path: Path) -> BinaryIO:
    """Open the log for appending, moving a long one out of the way first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")
