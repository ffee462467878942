"""Connections that take too long or are too many: dropped, or held unread until there is room.

    protocol = guarded(H11Protocol, ConnectionGuard(ConnectionLimits(...)))

A client has a while for its headers, may pause for a while within its body, and for a longer while
take nothing of its answer. Of a large body, which holds room that others wait for, a little has to
come in each such while. Time in which we do not read (the application holds the body back) does
not count. Connections beyond the most that may be are not refused, which would break off calls that
are not resent: nothing is read from them until others have ended.

It leans on internals of uvicorn, which is why that is pinned: `cycle.more_body`,
`cycle.response_complete`, `cycle.waiting_for_100_continue`, `flow.read_paused`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = structlog.get_logger("server.http")

LARGE_BODY_BYTES = 4 << 20
MIN_LARGE_BODY_BYTES = 64 << 10
"""Of a large body that is not at its end, so much has to come within `body_seconds`."""

LOOKS_PER_LIMIT = 15
MAX_HELD_PER_PLACE = 4
"""So many times as many connections as there may be are held; the next ones are closed at once."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How long a client may take, and how many there may be.

    Attributes:
        header_seconds: From the connection to the end of its headers.
        body_seconds: Without a byte of a body that is not at its end; with too few of a large one.
        answer_seconds: Without a byte taken of an answer.
        max_connections: That are read from.
        max_per_address: Of these, from one address.
    """

    header_seconds: float = 15.0
    body_seconds: float = 15.0
    answer_seconds: float = 60.0
    max_connections: int = 512
    max_per_address: int = 256


class ConnectionGuard:
    """All connections of one server.

    Args:
        is_unlimited: Of an address: whether it speaks for many, as a proxy does.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        is_unlimited: Callable[[str], bool] = lambda _address: False,
    ):
        self.limits = limits
        self._is_unlimited = is_unlimited
        self._admitted: set[SlowClients] = set()
        self._per_address: Counter[str] = Counter()
        self._held: deque[SlowClients] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_admitted(self) -> int:
        """Connections that are read from."""
        return len(self._admitted)

    @property
    def num_held(self) -> int:
        """Connections that wait for others to end."""
        return len(self._held)

    def enter(self, connection: SlowClients) -> None:
        """Admit a connection, hold it, or close it."""
        if self._has_room(connection):
            self._admit(connection)
        elif len(self._held) < MAX_HELD_PER_PLACE * self.limits.max_connections:
            connection.hold()
            self._held.append(connection)
        else:
            _log.warning("connection_refused", num_held=len(self._held))
            connection.transport.abort()

    def leave(self, connection: SlowClients) -> None:
        """A connection has ended; the first ones that may come in its place are read from."""
        if connection in self._admitted:
            self._admitted.discard(connection)
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]
        elif connection in self._held:
            self._held.remove(connection)
        for waiting in list(self._held):
            if len(self._admitted) >= self.limits.max_connections:
                return
            if self._has_room(waiting):
                self._held.remove(waiting)
                self._admit(waiting)
                waiting.let_in()

    def release(self, connection: SlowClients) -> None:
        """Read from a connection that was held, whether there is room or not."""
        self._held.remove(connection)
        self._admit(connection)
        connection.let_in()

    def _has_room(self, connection: SlowClients) -> bool:
        if len(self._admitted) >= self.limits.max_connections:
            return False
        num_alike = self._per_address[connection.address]
        return num_alike < self.limits.max_per_address or self._is_unlimited(connection.address)

    def _admit(self, connection: SlowClients) -> None:
        self._admitted.add(connection)
        self._per_address[connection.address] += 1
        if self._timer is None:
            self._look_again()

    def _look_again(self) -> None:
        shortest = min(self.limits.header_seconds, self.limits.body_seconds)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(shortest / LOOKS_PER_LIMIT, self._look)

    def _look(self) -> None:
        self._timer = None
        for connection in list(self._admitted):
            connection.look(self.limits)
        if self._admitted:
            self._look_again()


class SlowClients(H11Protocol):
    """One connection; to be put in front of a protocol class."""

    guard: ClassVar[ConnectionGuard]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = ""
        self._is_held = False
        self._headers_since: float | None = None
        self._last_byte_at = 0.0
        self._counted_since = 0.0
        self._num_counted = 0
        self._num_received = 0
        self._last_write_at = 0.0
        self._num_unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- as uvicorn narrows it
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(cast("tuple[Any, ...]", peer)[0]) if isinstance(peer, tuple) else ""
        self._headers_since = self._last_byte_at = self._last_write_at = self.loop.time()
        self._counted_since = self._last_byte_at
        self.guard.enter(self)

    def data_received(self, data: bytes) -> None:
        self._last_byte_at = self.loop.time()
        self._num_counted += len(data)
        self._num_received += len(data)
        if self._headers_since is None and not self._has_request():
            self._headers_since = self._last_byte_at
        super().data_received(data)
        if self._has_request():
            self._headers_since = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._headers_since = None
        self._num_received = 0
        super().on_response_complete()

    def shutdown(self) -> None:
        """The service stops; who was held is let in to be told so, or its call would break off."""
        if self._is_held:
            self.guard.release(self)
        super().shutdown()

    def hold(self) -> None:
        """Read nothing for now."""
        self._is_held = True
        self.flow.pause_reading()

    def let_in(self) -> None:
        """Begin to read."""
        self._is_held = False
        self._headers_since = self._last_byte_at = self.loop.time()
        self.flow.resume_reading()

    def look(self, limits: ConnectionLimits) -> None:
        """Drop the connection if its client takes too long."""
        now = self.loop.time()
        if self._is_stuck_in_headers(now, limits):
            self._drop("headers")
        elif self._is_stuck_in_body(now, limits):
            self._drop("body")
        elif self._is_stuck_in_answer(now, limits):
            self._drop("answer")

    def _is_stuck_in_headers(self, now: float, limits: ConnectionLimits) -> bool:
        since = self._headers_since
        return since is not None and now - since >= limits.header_seconds

    def _is_stuck_in_body(self, now: float, limits: ConnectionLimits) -> bool:
        if not self._has_request() or not self.cycle.more_body or self._is_held_back():
            self._last_byte_at = now
            self._count_anew(now)
        if now - self._counted_since >= limits.body_seconds:
            if self._num_counted < MIN_LARGE_BODY_BYTES and self._is_body_large():
                return True
            self._count_anew(now)
        return now - self._last_byte_at >= limits.body_seconds

    def _count_anew(self, now: float) -> None:
        self._counted_since, self._num_counted = now, 0

    def _is_body_large(self) -> bool:
        """By what was announced, for which there is room held already, or by what came."""
        headers = dict(self.cycle.scope["headers"])
        announced = headers.get(b"content-length", b"")
        num_announced = int(announced) if announced.isdigit() else 0
        return max(num_announced, self._num_received) > LARGE_BODY_BYTES

    def _is_stuck_in_answer(self, now: float, limits: ConnectionLimits) -> bool:
        num_unsent = self.transport.get_write_buffer_size()
        if not num_unsent or num_unsent != self._num_unsent:
            self._last_write_at = now
        self._num_unsent = num_unsent
        return now - self._last_write_at >= limits.answer_seconds

    def _is_held_back(self) -> bool:
        """Whether it is we who do not let the client send."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _has_request(self) -> bool:
        cycle = cast("Any", self.cycle)  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _drop(self, what: str) -> None:
        _log.warning("slow_client_dropped", waited_for=what)
        self.transport.abort()


def guarded(protocol: type[H11Protocol], guard: ConnectionGuard) -> type[H11Protocol]:
    """The protocol class, with slow clients dropped and too many connections held."""
    return type("GuardedProtocol", (SlowClients, protocol), {"guard": guard})
