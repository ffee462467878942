"""What SQLAlchemy compiles, kept for the whole test process: each test has engines of its own."""

from __future__ import annotations

from collections import UserDict
from typing import Any

from server.db.connection import Database


class _OfOneKind(UserDict[tuple[Any, ...], Any]):
    """Compiled statements by SQLAlchemy's keys, less their first part: the dialect of one engine.

    It does what SQLAlchemy asks of such a store, `get` and `[] =`, and forgets nothing.
    """

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return self.data.get(key[1:], default)

    def __setitem__(self, key: tuple[Any, ...], item: Any) -> None:
        self.data[key[1:]] = item


_by_kind: dict[str, _OfOneKind] = {}


def share(database: Database) -> None:
    """Let a database use what others of its kind have compiled, with the same driver and server."""
    for engine in (database.writer, database.readers):
        kept = _by_kind.setdefault(engine.dialect.name, _OfOneKind())
        engine.update_execution_options(compiled_cache=kept)
