"""A real moontune as a child process: API, worker, database and the bundled tiny Moondream."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests import databases

ROOT = Path(__file__).parent.parent
READY = re.compile(r"http://127\.0\.0\.1:(\d+)")
START_SECONDS = 120


class LiveServer:
    """`moontune serve --model tiny` on a free loopback port; a context manager.

    Attributes:
        folder: Where it runs.
    """

    folder = ROOT

    def __init__(self, data_dir: Path, *arguments: str, port: int = 0, **environment: str):
        self.data_dir = data_dir
        self._arguments = arguments
        self._port = port
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self.ready_line = ""

    @property
    def program(self) -> Sequence[str]:
        """What runs, before its options."""
        return (sys.executable, "-m", "server")

    def start(self) -> Self:
        command = [*self.program, "--model", "tiny", "--port", str(self._port)]
        command += ["--data-dir", str(self.data_dir), *self._arguments]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MOONTUNE_")}
        self.data_dir.mkdir(parents=True, exist_ok=True)
        clean |= databases.environment_of(self.data_dir)
        log = self.data_dir / "stderr.log"
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**clean, "OMP_NUM_THREADS": "1", **self._environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        self.ready_line = self._process.stdout.readline()
        match = READY.search(self.ready_line)
        if match is None:
            self._process.wait(START_SECONDS)
            raise RuntimeError(f"the server did not start: {self.ready_line}{log.read_text()}")
        self._port = int(match[1])
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return self._port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def tuning(self) -> str:
        return f"{self.endpoint}/v1/tuning"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.endpoint + path, timeout=60)

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(self.endpoint + path, json=body, timeout=120)

    def stop(self, *, with_signal: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end as a terminal would; returns the exit status. Harmless twice."""
        if self._process is None:
            return 0
        self._process.send_signal(with_signal)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        assert self._process is not None
        self._process.communicate(timeout=60)
        status = self._process.returncode
        self._process = None
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()
