"""The copy of a database that was made before its upgrade, and the files that it needs.

A copy without the states that its rows name would be no way back: after two more steps they would
be swept. So they stay while the copy lies there; of several copies the newest counts. Files of
batches do not stay: they go when it was promised.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog

from server.db.files import NUM_STATES_KEPT
from server.db.sqlite_copy import sqlite_path
from server.domain.clock import file_stamp

_log = structlog.get_logger("server.kept_aside")

_ENDING = ".backup"
_ANY_SCHEMA = "[0-9][0-9][0-9][0-9]"
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


def pattern(database_file: Path, schema: str = _ANY_SCHEMA) -> str:
    """What the names of its copies are like."""
    return f"{database_file.name}.{schema}.*{_ENDING}"


def new_copy(database_file: Path, schema: str) -> Path:
    """Choose the path of a copy: `moontune.db.0002.20261129T050000Z.backup`."""
    return database_file.with_name(f"{database_file.name}.{schema}.{file_stamp()}{_ENDING}")


def copies(database_file: Path, schema: str = _ANY_SCHEMA) -> list[Path]:
    """Return its copies, the newest last: by schema, and by time for one that came twice."""
    found = database_file.parent.glob(pattern(database_file, schema))
    return sorted(found, key=lambda path: path.name.split(".")[-3:-1])


def paths_kept(url: str) -> frozenset[str]:
    """Return the paths, relative to the data directory, that the newest copy needs.

    No paths where no copy lies, or where it is no database any more: then it is no way back.

    Args:
        url: Of the database that is served; of PostgreSQL there are no copies.
    """
    database_file = sqlite_path(url)
    found = [] if database_file is None else copies(database_file)
    if not found:
        return frozenset()
    newest = found[-1].resolve()
    try:
        with closing(sqlite3.connect(f"{newest.as_uri()}?mode=ro", uri=True)) as database:
            return frozenset(
                path
                for table, column, which in _NEEDED
                if column in _columns(database, table)
                for (path,) in database.execute(f"SELECT {table}.{column} FROM {table} {which}")
                if path is not None
            )
    except sqlite3.Error as error:
        _log.warning("copy_aside_not_readable", path=str(newest), detail=str(error))
        return frozenset()


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")}
