"""Whether the peer of a connection took the answer that was written to it.

A resend and a deliberate repeat of a train step are the same bytes. What tells them apart is
whether the caller ever had the earlier answer, which only its connection knows. The protocol class
below the application settles a `Delivery` once; whoever cares is told. Source: http-api.md 4.3.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Fate(Enum):
    """What became of an answer.

    Attributes:
        TAKEN: The peer closed after acknowledging every byte, or asked something else on the same
            connection.
        QUIET: Every byte is acknowledged, and the peer keeps the connection open.
        RESET: The peer reset the connection after the last byte. A direct one left with bytes
            unread; a proxy may do so although its client has everything.
        LEFT: The peer was gone before the last byte, or does not acknowledge what was written.
    """

    TAKEN = "taken"
    QUIET = "quiet"
    RESET = "reset"
    LEFT = "left"

    def is_delivered(self, *, through_proxy: bool) -> bool:
        """Whether this counts as delivered on a direct connection, or through a proxy."""
        if self is Fate.RESET:
            return through_proxy
        return self is not Fate.LEFT


class Delivery:
    """The answer to one request on one connection.

    Attributes:
        through_proxy: Whether the peer speaks for somebody else.
        is_watched: Whether somebody wants to know its fate.
    """

    def __init__(self, *, through_proxy: bool = False):
        self.through_proxy = through_proxy
        self._fate: Fate | None = None
        self._listeners: list[Callable[[bool], None]] = []

    @property
    def fate(self) -> Fate | None:
        """None while it is open."""
        return self._fate

    @property
    def is_watched(self) -> bool:
        """Whether a fate that is still open is of interest to anybody."""
        return self._fate is None and bool(self._listeners)

    def settle(self, fate: Fate) -> None:
        """Say what became of it; the first word counts."""
        if self._fate is not None:
            return
        self._fate = fate
        listeners, self._listeners = self._listeners, []
        for tell in listeners:
            tell(fate.is_delivered(through_proxy=self.through_proxy))

    def when_known(self, tell: Callable[[bool], None]) -> None:
        """Have `tell` called with whether it was delivered, at once if that is known."""
        if self._fate is None:
            self._listeners.append(tell)
        else:
            tell(self._fate.is_delivered(through_proxy=self.through_proxy))
