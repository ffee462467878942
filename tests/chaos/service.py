"""One moontune under test: an API on a fixed port, its workers, its data directory.

The API and the workers are forked from zygotes; they are the production code from `serve` and from
`trainer.process.main` on. What is known of them comes from outside: the ready line, the log, the
record of forks, the database and the files.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, NullPool, create_engine

from server.config import DATABASE_FILE
from server.ready import read_url
from tests.chaos import visits
from tests.chaos.forge import Forge, Fork, process_is_alive
from tests.chaos.waiting import until

SEED = 7
GRACE_SECONDS = 10.0
_PORTS = (20_000, 32_000)
"""Below those that the system gives to clients."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """A worker that was forked.

    Attributes:
        index: It was the index-th since the service was made.
        argv: Its arguments, `--fault` included.
    """

    index: int
    pid: int
    argv: tuple[str, ...]

    @property
    def is_alive(self) -> bool:
        return process_is_alive(self.pid)

    @property
    def epoch(self) -> int:
        return int(self.argv[self.argv.index("--epoch") + 1])

    def kill(self) -> bool:
        """SIGKILL; whether there was somebody."""
        return self.signal(signal.SIGKILL)

    def signal(self, number: int) -> bool:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


class Service:
    """A data directory and the processes that serve it.

    Args:
        options: Fields of the server's configuration.
        restarts: First and longest pause before a worker is started again, and most starts a
            minute; the production schedule would make 200 kills last an hour.
        environment: Of the API, besides its options.
    """

    def __init__(
        self,
        forge: Forge,
        name: str,
        *,
        data_dir: Path | None = None,
        seed: int = SEED,
        options: dict[str, Any] | None = None,
        restarts: tuple[float, float, int] = (0.01, 1.0, 100_000),
        environment: dict[str, str] | None = None,
    ):
        self.forge = forge
        self.folder = forge.new_folder(name)
        self.folder.mkdir(parents=True)
        self.data_dir = data_dir or self.folder / "data"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tuning = f"{self.url}/v1/tuning"
        self.log_path = self.folder / "api.log"
        self.visits_path = self.folder / "visits"
        self._record = self.folder / "lives"
        self._restarts = restarts
        self._environment = environment or {}
        self._options: dict[str, Any] = {
            "model": forge.model,
            "device": "cpu",
            "data_dir": self.data_dir,
            "port": self.port,
            "seed": seed,
            "shutdown_grace_seconds": GRACE_SECONDS,
            "min_free_bytes": 0,
            **(options or {}),
        }
        self._api: Fork | None = None
        self._stdout: int | None = None
        self.num_starts = 0

    # --- the API

    @property
    def api(self) -> Fork:
        assert self._api is not None, "the service was not started"
        return self._api

    @property
    def is_running(self) -> bool:
        return self._api is not None and self._api.is_alive

    def start(self, *, fault: str = "", counts_visits: bool = False, ready: bool = True) -> None:
        """Start the API; return when the model answers, or, if not `ready`, at once."""
        assert not self.is_running, "the service runs already"
        environment = dict(self._environment)
        environment |= {
            f"MOONTUNE_{name.upper()}": str(value) for name, value in self._options.items()
        }
        if counts_visits:
            environment[visits.VARIABLE] = str(self.visits_path)
            fault = ",".join(spec for spec in (visits.HARMLESS, fault) if spec)
        environment["MOONTUNE_FAULT"] = fault
        if self._stdout is not None:
            os.close(self._stdout)
        self._stdout, stdout = os.pipe()
        os.set_blocking(self._stdout, False)
        argv = [
            "serve", str(self.forge.trainer.path), str(self._record), *map(str, self._restarts)
        ]  # fmt: skip
        with self.log_path.open("ab") as log:
            self._api = self.forge.server.fork(argv, environment, [stdout, log])
        os.close(stdout)
        self.num_starts += 1
        if ready:
            self.until_ready()

    def until_ready(self) -> None:
        """Wait for the ready line.

        Raises:
            AssertionError: It did not come, or the API ended.
        """
        line = b""

        def see() -> bool:
            nonlocal line
            assert self._stdout is not None
            with suppress(BlockingIOError):
                line += os.read(self._stdout, 1 << 12)
            return line.endswith(b"\n") or not self.is_running

        until(see, f"the service says that it is ready, see {self.log_path}")
        assert read_url(line.decode()), f"the API ended with {self.api.wait()}: {self.last_log()}"

    def until_healthy(self, seconds: float = 60.0) -> None:
        """Wait until the API answers, with or without a worker."""
        until(lambda: self.get("/healthz")[0] == 200, "/healthz answers", seconds=seconds)

    def kill(self) -> None:
        """SIGKILL to the API; returns when it and its worker are gone."""
        self.signal(signal.SIGKILL)
        self.api.wait()
        self.until_no_worker()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        status = self.api.wait()
        self.until_no_worker()
        return status

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.api.pid, number)

    def until_no_worker(self) -> None:
        until(lambda: not any(life.is_alive for life in self.lives()[-3:]), "no worker is left")

    # --- the worker

    def lives(self) -> list[Life]:
        """Every worker that was forked so far, in order."""
        if not self._record.exists():
            return []
        whole, _, _ = self._record.read_text().rpartition("\n")  # the last line may be in writing
        return [
            Life(index=index, pid=life["pid"], argv=tuple(life["argv"]))
            for index, life in enumerate(map(json.loads, whole.splitlines()))
        ]

    def worker(self) -> Life:
        """The present worker, as soon as there is one."""
        return until(self._living_worker, "a worker lives")

    def worker_after(self, index: int) -> Life:
        """The first worker that was forked after another one, as soon as there is one."""
        return until(
            lambda: next(iter(self.lives()[index + 1 :]), None), f"worker {index} is replaced"
        )

    def _living_worker(self) -> Life | None:
        lives = self.lives()
        return lives[-1] if lives and lives[-1].is_alive else None

    # --- what is known from outside

    def get(self, path: str, timeout: float = 10.0) -> tuple[int, Any]:
        """GET, and the status with the JSON; 0 when nobody answers."""
        return self._ask(urllib.request.Request(f"{self.url}{path}"), timeout)

    def post(self, path: str, body: Any, timeout: float = 10.0) -> tuple[int, Any]:
        """POST, and the status with the JSON; 0 when nobody answers."""
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.url}{path}", content, headers), timeout)

    def _ask(self, request: urllib.request.Request, timeout: float) -> tuple[int, Any]:
        try:
            try:
                with urllib.request.urlopen(request, timeout=timeout) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.load(error)
        except (OSError, http.client.HTTPException):  # nobody, or an answer that broke off
            return 0, None

    def metric(self, name: str) -> float:
        """A series of /metrics, labels included; 0 where there is none."""
        lines = self.metrics_text().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def metrics_text(self) -> str:
        """All of /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10.0) as answer:
            return answer.read().decode()

    @contextmanager
    def look(self) -> Generator[Connection]:
        """The database, whichever it is, to look at; it may be in use."""
        engine = create_engine(self.database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection

    @property
    def database_url(self) -> str:
        return self._options.get("database_url") or f"sqlite:///{self.database_path.resolve()}"

    def database(self) -> closing[sqlite3.Connection]:
        """The SQLite database, to look at; it may be in use."""
        return closing(sqlite3.connect(self.database_path, timeout=10.0, isolation_level=None))

    @property
    def database_path(self) -> Path:
        return self.data_dir / DATABASE_FILE

    def visits(self) -> Counter[tuple[str, str]]:
        """How often each process visited each fault point; only after a start that counts."""
        return visits.read(self.visits_path)

    def forget_visits(self) -> None:
        self.visits_path.unlink(missing_ok=True)

    def log_events(self) -> list[dict[str, Any]]:
        """The events that the API logged, in order; lines that are none are passed over."""
        events = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    events.append(event)
        return events

    def last_log(self, num_lines: int = 12) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-num_lines:])

    def close(self) -> None:
        """Kill what still runs, orphans included."""
        if self.is_running:
            self.signal(signal.SIGKILL)
            self.api.wait()
        for life in self.lives():
            if life.is_alive:
                life.kill()
        if self._stdout is not None:
            os.close(self._stdout)
            self._stdout = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _free_port() -> int:
    """A port that no client's own end can take while a service is down between two starts."""
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as free, suppress(OSError):
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
            return port
