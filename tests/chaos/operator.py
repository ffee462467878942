"""Who restarts the API when it dies, as systemd or a container does in life."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.chaos.service import Service
from tests.chaos.waiting import POLL_SECONDS


class Operator:
    """Starts a service again whenever its API has ended, without faults; in a thread."""

    def __init__(self, service: Service):
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.statuses: list[int] = []

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            if not self._service.is_running:
                self.statuses.append(self._service.api.wait())
                self._service.until_no_worker()
                self._service.start(ready=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
