"""Connections and units of work; short, in threads, never open across a call to the engine.

SQLite has two engines: one writing connection whose transactions begin with BEGIN IMMEDIATE, so
that read-then-write neither loses updates nor meets "database is locked", and readers that cannot
write. Other databases have one engine for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import structlog
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from contract.disk import storage_full
from contract.errors import StorageFull
from server.domain.errors import OverloadedError, StorageFullError

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger("server.database")

BUSY_TIMEOUT_MS = 8000
COMMIT_BYTES = 64 << 10
"""What a small commit may add to the log: some pages, and the shared index of the log."""
_POSTGRES_DISK_FULL = "53100"
NUM_READERS = 4


class Database:
    """The database of one process; `write` and `read` are its units of work."""

    def __init__(self, url: str):
        self.url = url
        if make_url(url).get_backend_name() == "sqlite":
            self.writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", size=1)
            self.readers = _sqlite_engine(url, begin="BEGIN", size=NUM_READERS, query_only=True)
        else:
            self.writer = self.readers = create_engine(url, pool_pre_ping=True)
        self._write_threads = anyio.CapacityLimiter(1)
        self._read_threads = anyio.CapacityLimiter(NUM_READERS)

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)` in a thread; its changes are committed when it returns.

        Raises:
            OverloadedError: The database is busy or away.
            StorageFullError: The disk is full; nothing was changed.
        """
        call = functools.partial(_run, self.writer, work, *args, **kwargs)
        return await anyio.to_thread.run_sync(call, limiter=self._write_threads)

    async def read(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)` in a thread on one consistent view; it cannot change anything.

        Raises:
            OverloadedError: The database is busy or away.
        """
        call = functools.partial(_run, self.readers, work, *args, **kwargs)
        return await anyio.to_thread.run_sync(call, limiter=self._read_threads)

    def read_blocking(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, for who has no event loop."""
        return _run(self.readers, work, *args, **kwargs)

    def write_blocking(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for who cannot wait in an event loop; milliseconds."""
        return _run(self.writer, work, *args, **kwargs)

    async def ping(self) -> None:
        """Raise if the database cannot be reached."""
        await self.read(lambda session: session.execute(text("SELECT 1")).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.readers.dispose()
        self.writer.dispose()


def _run(
    engine: Engine, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    with _unit_of_work(engine) as session:
        return work(session, *args, **kwargs)


@contextmanager
def _unit_of_work(engine: Engine) -> Generator[Session]:
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except OperationalError as error:
        if (full := _full_disk(engine, error.orig)) is not None:
            _log.error("storage_full", detail=f"{full}: {error.orig}")
            raise StorageFullError.of(full) from error
        raise OverloadedError("The database is busy or cannot be reached. Try again.") from error


def _full_disk(engine: Engine, error: BaseException | None) -> StorageFull | None:
    """What is known of a full disk, if that is what the error means.

    SQLite says "disk I/O error" where the shared memory of its log cannot grow.
    """
    name = str(getattr(error, "sqlite_errorname", ""))
    if engine.dialect.name != "sqlite" or not engine.url.database:
        is_full = getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL
        return StorageFull("the disk of the database server is full") if is_full else None
    full = storage_full(Path(engine.url.database), num_bytes=COMMIT_BYTES)
    assert full.free_bytes is not None, "it was looked up"
    is_io_error = name.startswith("SQLITE_IOERR") and full.free_bytes < COMMIT_BYTES
    return full if name == "SQLITE_FULL" or is_io_error else None


def _sqlite_engine(url: str, *, begin: str, size: int, query_only: bool = False) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # the driver must not begin transactions by itself
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            *(["query_only=ON"] if query_only else []),
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(begin)

    return engine
