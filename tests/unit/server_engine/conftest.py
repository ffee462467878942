"""Engine clients over the fake worker, with pauses that tests can afford."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from server.engine_client import EngineClient
from server.restarts import RestartSchedule
from server.worker_process import WorkerLaunch

FAKE_WORKER = Path(__file__).parent / "fake_worker.py"
ClientFactory = Callable[..., EngineClient]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "worker.log"


@pytest.fixture
async def make_client(log_path: Path, anyio_backend: str) -> AsyncIterator[ClientFactory]:
    """Build engine clients that are stopped when the test ends."""
    async with AsyncExitStack() as stack:

        def make(at_start: str = "", **arguments: Any) -> EngineClient:
            def command(fd: int, epoch: int) -> list[str]:
                words = ["--fd", str(fd), "--epoch", str(epoch), "--at-start", at_start]
                return [sys.executable, str(FAKE_WORKER), *words]

            arguments.setdefault("restarts", RestartSchedule(first_pause_seconds=0.001))
            arguments.setdefault("stop_seconds", 5.0)
            launch = WorkerLaunch(command=command, log_path=log_path)
            client = EngineClient(launch, **arguments)
            stack.push_async_callback(client.stop)
            return client

        yield make
