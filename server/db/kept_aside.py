"""The copies of a database that were made before its upgrades, and the files that they need.

A copy without the states that its rows name would be no way back: after two more steps they would
be swept. So they stay while the copy lies there, whichever of several it is. What a copy needs that
cannot be read is unknown, which is not nothing. Files of batches do not stay: they go when it was
promised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from server.db.files import NUM_STATES_KEPT
from server.db.sqlite_copy import sqlite_path
from server.domain.clock import file_stamp

CURE = "remove it if you will not go back to the release that it is of"
"""What to do about a copy that is in the way, or no way back any more."""

_ENDING = ".backup"
_ANY_SCHEMA = "[0-9][0-9][0-9][0-9]"
_LOCK_SECONDS = 1.0
_LIVING = "JOIN finetunes ON finetunes.id = finetune_id WHERE finetunes.deleted_at_ms IS NULL"
_STATES = f"{_LIVING} AND train_steps.step > finetunes.step - {NUM_STATES_KEPT}"
_SAVED = f"{_LIVING} AND checkpoints.deleted_at_ms IS NULL"
_NEEDED = (
    ("train_steps", "weights_path", _STATES),
    ("train_steps", "optimizer_path", _STATES),
    ("checkpoints", "weights_path", _SAVED),
    ("checkpoints", "exchange_path", _SAVED),
    ("finetunes", "origin_weights_path", "WHERE deleted_at_ms IS NULL"),
)
"""Table, column and which rows; older schemas do not have all of them."""


@dataclass(frozen=True, kw_only=True)
class Aside:
    """What lies beside a database.

    Attributes:
        copies: All of them.
        needed: Paths, relative to the data directory, each with a copy that needs it.
        unread: Copies of which nobody knows what they need, each with the reason: damaged for good,
            or only locked just now.
    """

    copies: tuple[Path, ...] = ()
    needed: Mapping[str, Path] = field(default_factory=dict[str, Path])
    unread: Mapping[Path, str] = field(default_factory=dict[Path, str])

    def may_need(self, path: str) -> bool:
        """Whether a copy needs a file, or may need it for all that is known."""
        return path in self.needed or (bool(self.unread) and path.startswith("finetunes/"))


def pattern(database_file: Path, schema: str = _ANY_SCHEMA) -> str:
    """What the names of its copies are like."""
    return f"{database_file.name}.{schema}.*{_ENDING}"


def new_copy(database_file: Path, schema: str) -> Path:
    """Choose the path of a copy: `moontune.db.0002.20261129T050000Z.backup`."""
    return database_file.with_name(f"{database_file.name}.{schema}.{file_stamp()}{_ENDING}")


def copies(database_file: Path, schema: str = _ANY_SCHEMA) -> list[Path]:
    """Return its copies, by schema, and by time for one that came twice."""
    found = database_file.parent.glob(pattern(database_file, schema))
    return sorted(found, key=lambda path: path.name.split(".")[-3:-1])


def made_on(copy: Path) -> str:
    """The day on which a copy was made, as its name says it: `2026-11-29`."""
    stamp = copy.name.split(".")[-2]
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"


def read(url: str) -> Aside:
    """Read what the copies need that lie there now.

    Args:
        url: Of the database that is served; of PostgreSQL there are no copies.
    """
    database_file = sqlite_path(url)
    needed: dict[str, Path] = {}
    unread: dict[Path, str] = {}
    found = [] if database_file is None else copies(database_file)
    for copy in found:
        try:
            needed |= dict.fromkeys(_paths_in(copy), copy)
        except (OSError, sqlite3.Error) as error:
            unread[copy] = str(error)
    return Aside(copies=tuple(found), needed=needed, unread=unread)


def _paths_in(copy: Path) -> set[str]:
    uri = f"{copy.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)) as database:
        if not _columns(database, "finetunes"):  # SQLite takes an empty file for a database
            raise sqlite3.DatabaseError("it has no finetunes table")
        return set(_paths(database))


def _paths(database: sqlite3.Connection) -> Iterator[str]:
    for table, column, which in _NEEDED:
        if column in _columns(database, table):
            rows = database.execute(f"SELECT {table}.{column} FROM {table} {which}")
            yield from (path for (path,) in rows if path is not None)


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}
