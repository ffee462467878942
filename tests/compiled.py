"""What SQLAlchemy compiles, kept for the whole test process: each test has engines of its own."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from typing import Any

from server.db.connection import Database


class _OfOneKind(MutableMapping[tuple[Any, ...], Any]):
    """Compiled statements by their keys, of which the first part is the dialect of one engine."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[Hashable, ...], Any] = {}

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        return self._compiled[key[1:]]

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        self._compiled[key[1:]] = compiled

    def __delitem__(self, key: tuple[Any, ...]) -> None:
        del self._compiled[key[1:]]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._compiled)

    def __len__(self) -> int:
        return len(self._compiled)


_by_kind: dict[str, _OfOneKind] = {}


def share(database: Database) -> None:
    """Let a database use what others of its kind have compiled; SQL of one kind is the same."""
    for engine in (database.writer, database.readers):
        kept = _by_kind.setdefault(engine.dialect.name, _OfOneKind())
        engine.update_execution_options(compiled_cache=kept)
