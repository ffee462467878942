"""What the clients did and saw: every call with its times, its body and its outcome."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, kw_only=True)
class Call:
    """One call of a client, resends included; `ended_at` is None while it runs.

    Attributes:
        verb: The SDK's name, such as `train_step`.
        body: As it was sent, every time; empty for calls without one.
        may_fail: The bar expects that this call may end in an error.
    """

    number: int
    client: str
    verb: str
    finetune_id: str
    body: bytes
    invoked_at: float
    may_fail: bool = False
    ended_at: float | None = None
    result: Any = None
    error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        return self.ended_at is None

    @property
    def is_ok(self) -> bool:
        return self.ended_at is not None and self.error is None

    @property
    def seconds(self) -> float:
        return (self.ended_at or time.monotonic()) - self.invoked_at

    @property
    def step(self) -> int:
        """The step that an answered train step or save names."""
        assert self.is_ok, "only an answered call has a step"
        return self.result["step"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the body."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def identity(self) -> str:
        """What the ledger knows it by: the fingerprint, and its explicit key if it has one."""
        if b'"idempotency_key"' not in self.body:
            return self.fingerprint
        told = f"{self.fingerprint} {self.payload['idempotency_key']}"
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Created:
    """A finetune that a client was given."""

    id: str
    name: str
    rank: int


class History:
    """All calls of one run, by any number of threads."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.created: dict[str, Created] = {}
        self._lock = threading.Lock()

    def invoke(
        self, client: str, verb: str, finetune_id: str, body: bytes, *, may_fail: bool
    ) -> Call:
        """Note that a call begins."""
        with self._lock:
            call = Call(
                number=len(self.calls),
                client=client,
                verb=verb,
                finetune_id=finetune_id,
                body=body,
                invoked_at=time.monotonic(),
                may_fail=may_fail,
            )
            self.calls.append(call)
        return call

    def end(self, call: Call, *, result: Any = None, error: BaseException | None = None) -> None:
        """Note how it ended."""
        call.result, call.error = result, error
        call.ended_at = time.monotonic()

    def note_created(self, created: Created) -> None:
        self.created[created.id] = created

    def running(self) -> list[Call]:
        return [call for call in list(self.calls) if call.is_running]

    def of(self, verb: str, finetune_id: str | None = None) -> list[Call]:
        """The calls of a verb, in the order in which they began."""
        return [
            call
            for call in list(self.calls)
            if call.verb == verb and finetune_id in (None, call.finetune_id)
        ]

    def unexpected_errors(self) -> list[str]:
        """A sentence for each call that failed though the bar allows no failure."""
        return [
            f"call {call.number} {call.verb} of {call.client}: {describe(call.error)}"
            for call in self.calls
            if call.error is not None and not call.may_fail
        ]


def describe(error: BaseException) -> str:
    """An error with what the server said, which the SDK hides in the body."""
    said = getattr(error, "said", "")
    return f"{type(error).__name__}: {error}" + (f" ({said})" if said else "")
