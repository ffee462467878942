"""Units of work on the database of one process; short, in threads, never open across a call to
the engine.

Whatever the database, one connection writes and some others read; see engines.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from server.db import engines
from server.db.trouble import translate
from server.db.write_ahead import WriteAheadLog
from server.domain.errors import OverloadedError

P = ParamSpec("P")
T = TypeVar("T")

TURN_SECONDS = 4.0
"""How long a call waits for its turn among those of this process; with the wait for the write lock
it stays below the ten seconds within which calls are answered."""


class Database:
    """The database of one process; `write` and `read` are its units of work."""

    def __init__(self, url: str):
        self.url = url
        match make_url(url).get_backend_name():
            case "sqlite":
                self.writer = engines.sqlite_writer(url)
                self.readers = engines.sqlite_readers(url)
            case "postgresql":
                self.writer = engines.postgresql_writer(url)
                self.readers = engines.postgresql_readers(url)
            case other:
                raise ValueError(f"{other} is no database that we know; use sqlite or postgresql")
        self._log = WriteAheadLog(url)
        self._write_threads = anyio.CapacityLimiter(1)
        self._read_threads = anyio.CapacityLimiter(engines.NUM_READERS)

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)` in a thread; its changes are committed when it returns.

        Raises:
            OverloadedError: The database is busy or away.
            StorageFullError: The disk is full; nothing was changed.
        """
        return await _in_turn(
            lambda: self.write_blocking(work, *args, **kwargs), self._write_threads
        )

    async def read(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(session, ...)` in a thread on one consistent view; it cannot change anything.

        Raises:
            OverloadedError: The database is busy or away.
        """
        return await _in_turn(lambda: self.read_blocking(work, *args, **kwargs), self._read_threads)

    def read_blocking(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, for who has no event loop."""
        with _unit_of_work(self.readers) as session:
            return work(session, *args, **kwargs)

    def write_blocking(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `write`, for who cannot wait in an event loop; milliseconds."""
        with _unit_of_work(self.writer, before=self._log.bound) as session:
            return work(session, *args, **kwargs)

    async def ping(self) -> None:
        """Raise if the database cannot be reached."""
        await self.read(lambda session: session.execute(text("SELECT 1")).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.readers.dispose()
        self.writer.dispose()


async def _in_turn(call: Callable[[], T], threads: anyio.CapacityLimiter) -> T:
    """Run a call in one of some threads; what has begun is waited for, also when cancelled.

    Raises:
        OverloadedError: None was free in time.
    """
    turn = object()
    with anyio.move_on_after(TURN_SECONDS) as waiting:
        await threads.acquire_on_behalf_of(turn)
    if waiting.cancelled_caught:
        raise OverloadedError("The database has too much to do. Try again.")
    running = asyncio.ensure_future(
        anyio.to_thread.run_sync(call, limiter=anyio.CapacityLimiter(1))
    )
    running.add_done_callback(lambda _: threads.release_on_behalf_of(turn))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})  # whoever cleans up after us has to find it done
        if not running.cancelled():
            running.exception()
        raise


@contextmanager
def _unit_of_work(
    engine: Engine, *, before: Callable[[Engine], None] = lambda _engine: None
) -> Generator[Session]:
    try:
        before(engine)
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except SQLAlchemyError as error:
        refusal = translate(error, engine)
        if refusal is None:
            raise
        raise refusal from error
