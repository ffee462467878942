"""What is kept because it may be wanted again: bounded, least recently used out first.

What is in use is leased and stays. A shelf may hand what it gives up to the next tier: from the
device to the host, say.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from trainer.counters import Counters

V = TypeVar("V")


class Shelf(Generic[V]):
    """Values by key, within a budget.

    Args:
        budget: In the unit of `size`, such as bytes.
        size: Of a value; its bytes, or 1 where places are counted.
        num_bytes: Of a value, where its size is not in bytes.
        name: How counters call it; nothing is counted without `counters`.
        on_evicted: Takes what had to go for something else.
    """

    def __init__(
        self,
        *,
        budget: int,
        size: Callable[[V], int],
        num_bytes: Callable[[V], int] | None = None,
        name: str = "",
        counters: Counters | None = None,
        on_evicted: Callable[[Hashable, V], None] | None = None,
    ):
        self._budget = budget
        self._size = size
        self._num_bytes = num_bytes or size
        self._name = name
        self._counters = counters
        self._on_evicted = on_evicted
        self._used = 0
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._leases: Counter[Hashable] = Counter()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._kept)

    def get(self, key: Hashable) -> V | None:
        """The value, which is now the most recently used, or None."""
        found = key in self._kept
        if found:
            self._kept.move_to_end(key)
        self._count("moontune_cache_hits_total" if found else "moontune_cache_misses_total")
        return self._kept.get(key)

    def can_take(self, size: int) -> bool:
        """Whether this much would fit, after all that is not leased has gone."""
        leased = sum(self._size(self._kept[key]) for key in self._leases)
        return leased + size <= self._budget

    def put(self, key: Hashable, value: V) -> bool:
        """Keep a value and give up others for it; says whether it is kept."""
        if key in self._leases:
            raise ValueError(f"{key} is in use and cannot be replaced")
        self._remove(key)
        size = self._size(value)
        if not self.can_take(size):
            return False
        self._kept[key] = value
        self._used += size
        for other in [other for other in self._kept if other != key]:
            if self._used <= self._budget:
                break
            if other not in self._leases:
                evicted = self._remove(other)
                assert evicted is not None, "it was kept"
                self._count("moontune_cache_evictions_total")
                if self._on_evicted is not None:
                    self._on_evicted(other, evicted)
        self._report()
        return True

    def lease(self, key: Hashable) -> V:
        """The value, which stays until it is released as often as it was leased."""
        self._leases[key] += 1
        return self._kept[key]

    def release(self, key: Hashable) -> None:
        """One user less."""
        assert self._leases[key] > 0, f"{key} was not leased"
        self._leases[key] -= 1
        if not self._leases[key]:
            del self._leases[key]

    def drop(self, wanted: Callable[[Hashable], bool] = lambda _: True) -> None:
        """Forget what is not leased, or those of it whose keys are wanted away."""
        for key in [key for key in self._kept if key not in self._leases and wanted(key)]:
            self._remove(key)
        self._report()

    def _remove(self, key: Hashable) -> V | None:
        removed = self._kept.pop(key, None)
        if removed is not None:
            self._used -= self._size(removed)
        return removed

    def _count(self, name: str) -> None:
        if self._counters is not None:
            self._counters.count(name, self._name)

    def _report(self) -> None:
        if self._counters is not None:
            num_bytes = sum(map(self._num_bytes, self._kept.values()))
            self._counters.show("moontune_cache_bytes", num_bytes, self._name)
