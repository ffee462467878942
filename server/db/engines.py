"""The engines of one database: one writing connection, some reading ones that cannot write.

On both kinds of database a writing transaction begins by taking the one write lock there is, so
that read-then-write loses no update, whoever else writes: SQLite by BEGIN IMMEDIATE, PostgreSQL by
an advisory lock that its commit frees. A reading transaction sees one consistent view.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool

BUSY_TIMEOUT_MS = 5000
"""How long to wait for the write lock when another process has it."""

NUM_READERS = 4
WRITE_LOCK = 0x6D6F6F6E_77726974
"""The number of the advisory lock: "moonwrit"."""

DEAD_LINK_MS = 10_000
_CONNECT_SECONDS = 3
_KEEPALIVES = {"idle": 5, "interval": 3, "count": 3}  # 14 seconds
_SILENT_TRANSACTION_MS = 10_000
_WAL_KEPT_BYTES = 16 << 20


def sqlite_writer(url: str) -> Engine:
    """The one connection that writes."""
    return _sqlite(url, begin="BEGIN IMMEDIATE", size=1)


def sqlite_readers(url: str) -> Engine:
    """Connections that cannot write."""
    return _sqlite(url, begin="BEGIN", size=NUM_READERS, query_only=True)


def postgresql_writer(url: str) -> Engine:
    """The one connection that writes."""
    engine = _postgresql(url, size=1)

    @event.listens_for(engine, "begin")
    def take_write_lock(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")

    return engine


def postgresql_readers(url: str) -> Engine:
    """Connections that cannot write."""
    return _postgresql(url, size=NUM_READERS).execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )


def _sqlite(url: str, *, begin: str, size: int, query_only: bool = False) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        hide_parameters=True,  # an error must not show in the log what a caller sent
        pool_timeout=BUSY_TIMEOUT_MS / 1000,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # the driver must not begin transactions by itself
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"journal_size_limit={_WAL_KEPT_BYTES}",
            "synchronous=FULL",
            "foreign_keys=ON",
            *(["query_only=ON"] if query_only else []),
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: str, *, size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        hide_parameters=True,  # an error must not show in the log what a caller sent
        pool_timeout=BUSY_TIMEOUT_MS / 1000,
        pool_pre_ping=True,  # after a restart of the server the first use finds a new connection
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "tcp_user_timeout": DEAD_LINK_MS,
            "application_name": "moontune",
        },
    )
    settings = {
        "lock_timeout": BUSY_TIMEOUT_MS,
        "synchronous_commit": "on",
        # A dead link must not keep the write lock until the server's keep-alive finds it, in hours.
        "idle_in_transaction_session_timeout": _SILENT_TRANSACTION_MS,
    }
    set_at_connect(engine, settings)
    watch_client(engine)
    return engine


def watch_client(engine: Engine) -> None:
    """Have PostgreSQL notice within seconds that the client of an idle session is gone."""
    set_at_connect(engine, {f"tcp_keepalives_{key}": value for key, value in _KEEPALIVES.items()})


def set_at_connect(engine: Engine, settings: Mapping[str, str | int]) -> None:
    """Set parameters of each session of PostgreSQL, beside those that its URL may name."""

    @event.listens_for(engine, "connect")
    def set_all(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        for name, value in settings.items():
            connection.execute(f"SET {name} = {value}")
        connection.commit()
