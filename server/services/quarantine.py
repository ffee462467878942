"""Quarantine: a request that was in a worker's hands when it died is tried again alone.

A worker has many calls in hand, and its death does not say which of them was the cause. All of them
become suspects. While suspects wait or run, nothing else is with the engine, and they run one after
another; so the next death has one cause. Who was in the hands of two workers when they died is shut
out for some minutes; who is answered, or comes again after those minutes, is no suspect any more.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.domain.errors import RequestCrashesWorkerError
from server.services.gate import Gate

MAX_DEATHS = 2
SHUT_OUT_SECONDS = 300.0
_MAX_REMEMBERED = 1000


@dataclass(frozen=True, kw_only=True)
class _Suspicion:
    """The workers that died with a request in hand, and when the last one did."""

    epochs: frozenset[int]
    last_at: float


class Quarantine:
    """Remembers requests by their fingerprint, whoever sends them.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._gate = Gate()
        self._suspicions: OrderedDict[bytes, _Suspicion] = OrderedDict()
        self._present: Counter[bytes] = Counter()

    @property
    def has_suspects(self) -> bool:
        """Whether a request that a worker died under waits or runs."""
        return any(fingerprint in self._present for fingerprint in self._suspicions)

    async def enter(self, fingerprint: bytes) -> None:
        """Wait until this request may be with the engine; then `leave` when it is back.

        Raises:
            RequestCrashesWorkerError: It is shut out; there is nothing to leave.
        """
        self._forget_if_long_ago(fingerprint)
        self._present[fingerprint] += 1
        try:
            await self._pass_the_gate(fingerprint)
        except BaseException:
            self._depart(fingerprint)
            raise

    def leave(self, fingerprint: bytes) -> None:
        """The request is back from the engine, whatever became of it."""
        self._depart(fingerprint)
        self._gate.leave()

    def suspect(self, fingerprint: bytes, *, epoch: int) -> None:
        """Note that a worker died with this request in hand; once, if it had several like it."""
        known = self._suspicions.pop(fingerprint, None)
        epochs = frozenset([epoch]) if known is None else known.epochs | {epoch}
        self._suspicions[fingerprint] = _Suspicion(epochs=epochs, last_at=self._clock())
        if len(self._suspicions) > _MAX_REMEMBERED:
            self._suspicions.popitem(last=False)

    def clear(self, fingerprint: bytes) -> None:
        """Forget what was held against this request: a worker has answered it."""
        self._suspicions.pop(fingerprint, None)

    async def _pass_the_gate(self, fingerprint: bytes) -> None:
        while True:
            self._refuse_if_shut_out(fingerprint)
            alone = self._num_deaths(fingerprint) > 0
            await self._gate.enter(alone=alone)
            num_deaths = self._num_deaths(fingerprint)
            if num_deaths < MAX_DEATHS and alone == (num_deaths > 0):
                return
            self._gate.leave()  # while this one waited, its like died or was answered

    def _depart(self, fingerprint: bytes) -> None:
        self._present[fingerprint] -= 1
        if not self._present[fingerprint]:
            del self._present[fingerprint]

    def _forget_if_long_ago(self, fingerprint: bytes) -> None:
        """Forget old deaths, but not while the request, or its like, still waits or runs.

        A poison may wait for minutes among many suspects, or kill only after minutes; it would
        begin a third time.
        """
        known = self._suspicions.get(fingerprint)
        if known is None or fingerprint in self._present:
            return
        if self._clock() - known.last_at > SHUT_OUT_SECONDS:
            del self._suspicions[fingerprint]

    def _num_deaths(self, fingerprint: bytes) -> int:
        known = self._suspicions.get(fingerprint)
        return 0 if known is None else len(known.epochs)

    def _refuse_if_shut_out(self, fingerprint: bytes) -> None:
        num_deaths = self._num_deaths(fingerprint)
        if num_deaths < MAX_DEATHS:
            return
        raise RequestCrashesWorkerError(
            f"The worker died {num_deaths} times while it had this request. It is refused"
            f" for {SHUT_OUT_SECONDS:g} s; change it, or look for the cause in the server's log."
        )
