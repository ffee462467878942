"""What the engine client says about the trainer: how it is, and which one died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from contract.engine import ModelInfo
from contract.errors import WorkerUnavailable


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """`starting` until the first model answers, `unavailable` while a worker that died is replaced.

    Attributes:
        state: Calls are handed over only when `ready`.
        detail: A sentence for people: what is being loaded, why the worker is away.
        model: What is loaded, or was loaded last; None before the first load.
        num_starts: Workers that were started so far.
        epoch: The number of the present worker, larger than that of any before; 0 without one.
    """

    state: Literal["starting", "ready", "unavailable"]
    detail: str = ""
    model: ModelInfo | None = None
    num_starts: int = 0
    epoch: int = 0


class NotHandedOverError(WorkerUnavailable):
    """No worker saw anything of this call, which may go to the next one."""


class WorkerDiedError(WorkerUnavailable):
    """A worker ended while it had this call; `epoch` is the number of that worker."""

    def __init__(self, message: str, *, epoch: int):
        super().__init__(message)
        self.epoch = epoch
