"""Who has the device next: kinds of work get time in proportion to their shares.

Each kind has a clock that runs by the seconds it used over its share; the kind whose clock is
behind goes next. One that had nothing to do starts where the others are, so idleness saves nothing
up (stride scheduling: Waldspurger and Weihl, MIT/LCS/TM-528, 1995).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from contract.work import WorkClass

DEFAULT_TRAIN_SHARE = 0.5
"""Of the device's time, while answers are waiting, too."""

ANSWERS = {WorkClass.INFERENCE: 2.0, WorkClass.ROLLOUTS: 1.0}
"""How the rest is divided: people wait for single answers, loops for rollouts."""


class Shares:
    """The clocks of all kinds of work."""

    def __init__(self, *, train_share: float = DEFAULT_TRAIN_SHARE):
        """Divide the device.

        Args:
            train_share: Between 0 and 1, both excluded; answers have the rest.

        Raises:
            ValueError: It lies elsewhere.
        """
        if not 0.0 < train_share < 1.0:
            raise ValueError(f"a share lies between 0 and 1, got {train_share}")
        self._train_share = train_share
        self._clocks = dict.fromkeys(WorkClass, 0.0)
        self._active: set[WorkClass] = set()

    def next(self, waiting: Collection[WorkClass]) -> WorkClass:
        """The kind that goes next.

        Args:
            waiting: The kinds that have something to do; at least one.
        """
        others = [self._clocks[kind] for kind in waiting if kind in self._active]
        for kind in set(waiting) - self._active:
            self._clocks[kind] = max(self._clocks[kind], min(others, default=0.0))
        self._active = set(waiting)
        return min(waiting, key=lambda kind: (self._clocks[kind], list(WorkClass).index(kind)))

    def charge(self, seconds: Mapping[WorkClass, float]) -> None:
        """Count time that was used."""
        for kind, used in seconds.items():
            self._clocks[kind] += used / self._share(kind)

    def _share(self, kind: WorkClass) -> float:
        """What this kind has of the device, among those that have something to do."""
        if kind is WorkClass.TRAINING:
            return self._train_share
        answers = sum(ANSWERS[other] for other in {*self._active, kind} if other in ANSWERS)
        return (1.0 - self._train_share) * ANSWERS[kind] / answers
