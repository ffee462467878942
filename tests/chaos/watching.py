"""What is watched of a service from outside while it is under load."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PROBE_SECONDS = 0.05
_KIB = 1 << 10


class Probe:
    """Asks /healthz all the time, and reads the memory of the API; a context manager.

    Attributes:
        latencies: Seconds of each answer, its connection included. One that took longer than the
            time between two questions stands for those that would have been asked meanwhile, too.
        num_failed: Answers that did not come, or were none of 200.
    """

    def __init__(self, port: int, api_pid: int):
        self.latencies: list[float] = []
        self.num_failed = 0
        self._port = port
        self._status = Path(f"/proc/{api_pid}/status")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def peak_bytes(self) -> int:
        """The most memory that the API had so far."""
        return self._status_bytes("VmHWM")

    def now_bytes(self) -> int:
        """The memory that the API has."""
        return self._status_bytes("VmRSS")

    def _status_bytes(self, name: str) -> int:
        (line,) = [
            line for line in self._status.read_text().splitlines() if line.startswith(f"{name}:")
        ]
        return int(line.split()[1]) * _KIB

    def _ask(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            started = time.monotonic()
            is_well = False
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
                connection.request("GET", "/healthz", headers={"Connection": "close"})
                is_well = connection.getresponse().status == 200
                connection.close()
            taken = time.monotonic() - started
            self.latencies.append(taken)
            while (taken := taken - PROBE_SECONDS) > 0:
                self.latencies.append(taken)
            self.num_failed += not is_well

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of them lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
