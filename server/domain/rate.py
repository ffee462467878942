"""How often somebody may do something: so many at once, then evenly over the minute."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable

_MINUTE = 60.0
MAX_REMEMBERED = 10_000
"""Of those who came; who came longest ago is forgotten first, and then begins with a full minute's
worth."""


class Rates:
    """A bucket for each who comes, that fills evenly and holds a minute's worth.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable, *, per_minute: int) -> int | None:
        """Take one; None if there was one, else the whole seconds until there is.

        Who is refused has taken nothing.
        """
        now = self._clock()
        left, at = self._left.get(who, (float(per_minute), now))
        left = min(left + (now - at) * per_minute / _MINUTE, float(per_minute))
        missing = round(1.0 - left, 9)  # sums of fractions miss whole numbers by a hair
        wait = None if missing <= 0 else math.ceil(round(missing * _MINUTE / per_minute, 6))
        self._left[who] = (left if wait is not None else left - 1.0, now)
        self._left.move_to_end(who)
        if len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)
        return wait
