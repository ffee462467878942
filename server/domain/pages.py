"""One page of a list: its rows, and where the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """At most `limit` rows; `next_key` is the key of the last one if more follow, else None."""

    rows: tuple[T, ...]
    next_key: dict[str, Any] | None


def cut_page(rows: Sequence[T], *, limit: int, key: Callable[[T], dict[str, Any]]) -> Page[T]:
    """Make a page of rows that were read with one more than `limit`."""
    shown = tuple(rows[:limit])
    return Page(rows=shown, next_key=key(shown[-1]) if len(rows) > limit else None)
