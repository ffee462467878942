"""Who has the device next: training and answers share its time, inference and rollouts who begins.

Lines of batches stand beside all of that with a small part, so that they go on beside anything and
delay nothing that is noticed; what the others do not use is theirs.

Each has a clock that runs by the seconds it used over its share; who is behind goes next. One that
had nothing to do starts where the last one served is, so idleness saves nothing up (stride
scheduling: Waldspurger and Weihl, MIT/LCS/TM-528, 1995).

Answers grow together, whatever their kind: a unit of theirs is charged to both kinds by what each
had of it, and to answers as a whole against training.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Generic, TypeVar

from contract.work import WorkClass

DEFAULT_TRAIN_SHARE = 0.5
"""Of the device's time, while answers are waiting, too."""

INFERENCE_PER_ROLLOUTS = 2.0
"""People wait for single answers, loops for rollouts."""

BATCH_PART = 0.04
"""Of the time of whoever else works, for batches, at most."""

LEAD_SECONDS = 1.0
"""Whoever comes while only batches had something to do has the device for so long before them."""

K = TypeVar("K", bound=Hashable)

_ANSWERS, _TRAINING = "answers", "training"
_CALLS, _BATCHES = "calls", "batches"


class _Clocks(Generic[K]):
    """Clocks by weight; who is behind goes next."""

    def __init__(self, weights: Mapping[K, float]):
        self._weights = weights
        self._clocks = dict.fromkeys(weights, 0.0)
        self._active: set[K] = set()
        self._now = 0.0

    def next(self, waiting: Collection[K]) -> K:
        """Whose turn it is, of those that have something to do; the first named wins a tie."""
        for kind in set(waiting) - self._active:
            self._clocks[kind] = max(self._clocks[kind], self._now)
        self._active = set(waiting)
        chosen = min((k for k in self._weights if k in waiting), key=self._clocks.__getitem__)
        self._now = self._clocks[chosen]
        return chosen

    def hold_back(self, kind: K, seconds: float) -> None:
        """Let a kind wait until who goes now has gone on for so long."""
        self._clocks[kind] = max(self._clocks[kind], self._now + seconds)

    def charge(self, kind: K, seconds: float) -> None:
        self._clocks[kind] += seconds / self._weights[kind]


class Shares:
    """The shares of all kinds of work."""

    def __init__(self, *, train_share: float = DEFAULT_TRAIN_SHARE):
        """Divide the device.

        Args:
            train_share: Between 0 and 1, both excluded; answers have the rest.

        Raises:
            ValueError: It lies elsewhere.
        """
        if not 0.0 < train_share < 1.0:
            raise ValueError(f"a share lies between 0 and 1, got {train_share}")
        self._all = _Clocks({_CALLS: 1.0, _BATCHES: BATCH_PART})
        self._had_calls = False
        self._device = _Clocks({_ANSWERS: 1.0 - train_share, _TRAINING: train_share})
        self._answers = _Clocks(
            {WorkClass.INFERENCE: INFERENCE_PER_ROLLOUTS, WorkClass.ROLLOUTS: 1.0}
        )

    def next(self, waiting: Collection[WorkClass]) -> WorkClass:
        """The kind that goes next.

        Args:
            waiting: The kinds that have something to do; at least one.
        """
        calls = [kind for kind in waiting if kind is not WorkClass.BATCH]
        sides = [_CALLS] * bool(calls) + [_BATCHES] * (WorkClass.BATCH in waiting)
        side = self._all.next(sides)
        if calls and not self._had_calls:
            side = _CALLS
            self._all.hold_back(_BATCHES, LEAD_SECONDS)
        self._had_calls = bool(calls)
        if side == _BATCHES:
            return WorkClass.BATCH
        answers = [kind for kind in calls if kind is not WorkClass.TRAINING]
        sides = [_ANSWERS] * bool(answers) + [_TRAINING] * (WorkClass.TRAINING in calls)
        if self._device.next(sides) == _TRAINING:
            return WorkClass.TRAINING
        return self._answers.next(answers)

    def charge(self, seconds: Mapping[WorkClass, float]) -> None:
        """Count the time of one unit, by the kinds that had it."""
        for kind, used in seconds.items():
            self._all.charge(_BATCHES if kind is WorkClass.BATCH else _CALLS, used)
            if kind is WorkClass.TRAINING:
                self._device.charge(_TRAINING, used)
            elif kind is not WorkClass.BATCH:
                self._device.charge(_ANSWERS, used)
                self._answers.charge(kind, used)
