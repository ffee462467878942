"""The order of those who wait for one kind of work: round over accounts, then over their lanes.

A lane is a finetune, or the base model; inside of it who came first is first. An account with a
hundred finetunes has no more turns than one that has a single one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class InLane(Protocol):
    """What stands in a lane."""

    @property
    def account_id(self) -> str:
        """Whose call it is."""
        ...

    @property
    def lane(self) -> str:
        """What it is about."""
        ...


P = TypeVar("P", bound=InLane)
T = TypeVar("T")


class Lanes(Generic[P]):
    """Who waits or runs, by account and lane."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, OrderedDict[str, deque[P]]] = OrderedDict()

    def __iter__(self) -> Iterator[P]:
        """Everybody, in no special order."""
        for lane in self.by_turn():
            yield from lane

    def add(self, place: P) -> None:
        """Stand behind those of the same lane."""
        lanes = self._accounts.setdefault(place.account_id, OrderedDict())
        lanes.setdefault(place.lane, deque()).append(place)

    def remove(self, place: P) -> None:
        """Leave, from wherever one stands."""
        lanes = self._accounts[place.account_id]
        lanes[place.lane].remove(place)
        if not lanes[place.lane]:
            del lanes[place.lane]
        if not lanes:
            del self._accounts[place.account_id]

    def had_a_turn(self, place: P) -> None:
        """Let the other accounts, and the other lanes of this one, go first next time."""
        self._accounts[place.account_id].move_to_end(place.lane)
        self._accounts.move_to_end(place.account_id)

    def by_turn(self) -> Iterator[deque[P]]:
        """Every lane, in the order in which they are asked for somebody who can go."""
        for lanes in self._accounts.values():
            yield from lanes.values()

    def in_order(self, waits: Callable[[P], bool]) -> Iterator[P]:
        """Those who wait, in the order of their turns if nobody else comes."""
        return round_robin(
            round_robin(filter(waits, lane) for lane in lanes.values())
            for lanes in self._accounts.values()
        )


def round_robin(sources: Iterable[Iterable[T]]) -> Iterator[T]:
    """One of each, then the next of each, until all are empty."""
    iterators = deque(iter(source) for source in sources)
    while iterators:
        iterator = iterators.popleft()
        for item in iterator:
            yield item
            iterators.append(iterator)
            break
