"""What a database's own errors mean for a call: come back later, no space, damage, or ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from contract.disk import free_bytes, storage_full
from contract.errors import StorageFull
from server.domain.errors import OverloadedError, ServiceError, StorageFullError

COMMIT_BYTES = 64 << 10
"""What a small commit may add to the log: some pages, and the shared index of the log."""

_log = structlog.get_logger("server.database")

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF

_DISK_FULL = "53100"
_DAMAGED_STATES = frozenset({"XX001", "XX002"})  # data_corrupted, index_corrupted
_AWAY_STATES = frozenset({"55P03", "25P03"})  # lock_not_available; silent in a transaction
_AWAY_CLASSES = (
    "08",  # connection
    "40",  # rolled back: deadlock, serialization
    "53",  # resources: memory, connections
    "57",  # shutdown, starting up, cancelled
    "58",  # system error: I/O
)
"""SQLSTATE of PostgreSQL; its manual, appendix A."""


def translate(error: SQLAlchemyError, engine: Engine) -> ServiceError | None:
    """Return the refusal that a database error means; None if it is nobody's but ours."""
    if isinstance(error, PoolTimeoutError):
        return _away()
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        return _of_sqlite(error.orig, Path(engine.url.database or ""))
    return _of_postgresql(error)


def is_damage(error: DBAPIError) -> bool:
    """Whether the database says that it is damaged: nobody but an operator can mend that."""
    if isinstance(error.orig, sqlite3.Error):
        return _primary_code(error.orig) in _SQLITE_DAMAGED
    return getattr(error.orig, "sqlstate", None) in _DAMAGED_STATES


def _of_sqlite(error: sqlite3.Error, path: Path) -> ServiceError | None:
    """SQLite says "disk I/O error" where the shared memory of its log cannot grow."""
    code = _primary_code(error)
    is_short = code == sqlite3.SQLITE_IOERR and free_bytes(path.parent) < COMMIT_BYTES
    if code == sqlite3.SQLITE_FULL or is_short:
        return _full(storage_full(path, num_bytes=COMMIT_BYTES), error)
    return _away() if code in _SQLITE_AWAY else None


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def _of_postgresql(error: DBAPIError) -> ServiceError | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state == _DISK_FULL:
        return _full(StorageFull("the disk of the database server is full"), error)
    if state is None:  # it never came to a statement
        is_away = error.connection_invalidated or isinstance(error, OperationalError)
    else:
        is_away = state in _AWAY_STATES or state.startswith(_AWAY_CLASSES)
    return _away() if is_away else None


def _full(full: StorageFull, error: Exception) -> ServiceError:
    _log.error("storage_full", detail=f"{full}: {error}")
    return StorageFullError.of(full)


def _away() -> ServiceError:
    return OverloadedError("The database is busy or cannot be reached. Try again.")
