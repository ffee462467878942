"""The progress of a download where no terminal shows a bar: a line per new ten percent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from trainer.device_memory import readable_bytes

WORTH_TELLING_BYTES = 10**6


class _PlainProgress:
    """Stands in for a tqdm bar; what it does not know of one it ignores."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        desc: str,
        total: int | None = None,
        initial: int = 0,
        **_: Any,
    ) -> None:
        self._say, self._name, self._total = say, desc, total or 0
        self._done, self._told = initial, 0
        if initial:
            self._say(
                f"{desc}: going on at {readable_bytes(initial)} of {readable_bytes(self._total)}"
            )

    def update(self, num_bytes: int) -> None:
        self._done += num_bytes
        tenths = 10 * self._done // max(1, self._total)
        if self._total >= WORTH_TELLING_BYTES and tenths > self._told:
            self._told = tenths
            self._say(f"{self._name}: {10 * tenths} % of {readable_bytes(self._total)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        pass


def plain_progress(say: Callable[[str], None]) -> Callable[..., _PlainProgress]:
    """Bars that say lines."""
    return partial(_PlainProgress, say)
