"""One server per PostgreSQL database: an advisory lock on a connection of its own.

The lock lives as long as its connection. When that is found broken, it is taken again at once; when
another server was faster, `on_loss` is called and we stop. The database may notice later than we
that a connection broke: then it is still ours, until a session that is silent for `_SILENT_MS` is
ended. A SQLite database is owned with its directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Generator

import structlog
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from server.config import ServerConfig
from server.db.engines import DEAD_LINK_MS, set_at_connect, watch_client
from server.domain.clock import timestamp

OWNER_LOCK = 0x6D6F6F6E_6F776E72
"""The number of the advisory lock: "moonownr"."""

LOOK_SECONDS = 2.0
_SILENT_MS = 20_000
_MAX_NAME_BYTES = 63  # PostgreSQL cuts application names there
_log = structlog.get_logger("server.ownership")

_TRY = text("SELECT pg_try_advisory_lock(:number), pg_backend_pid()")
_HOLDER = text(
    "SELECT pid, application_name FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    " AND classid::bigint = :high AND objid::bigint = :low"
)


class NotOwnerError(Exception):
    """Another server has the database, or it cannot be reached; the message is a sentence."""


@contextlib.contextmanager
def own_database(config: ServerConfig, *, on_loss: Callable[[str], None]) -> Generator[None]:
    """Own the database until the block ends.

    Args:
        on_loss: Called with a sentence, in another thread, when another server has it now.

    Raises:
        NotOwnerError: Another server has it, which is named.
    """
    url = config.resolved_database_url
    if make_url(url).get_backend_name() != "postgresql":
        yield
        return
    owner = _Owner(url)
    try:
        owner.take()
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise NotOwnerError(f"The database cannot be opened: {reason}") from error
    watch = threading.Thread(target=owner.watch, args=(on_loss,), daemon=True, name="ownership")
    watch.start()
    try:
        yield
    finally:
        owner.ended.set()
        watch.join()
        owner.release()


class _Owner:
    """The connection that holds the lock."""

    def __init__(self, url: str):
        self._name = _name()
        self._engine = _engine(url, self._name)
        self._connection: Connection | None = None
        self._backend: tuple[int, str] | None = None
        self.ended = threading.Event()

    def take(self) -> bool:
        """Take the lock; return whether we have it, which may take the end of a broken connection.

        Raises:
            NotOwnerError: Somebody else has it.
        """
        connection = self._engine.connect()
        try:
            is_ours, backend_pid = connection.execute(_TRY, {"number": OWNER_LOCK}).one()
            if is_ours:
                self._backend = (backend_pid, self._name)
                self._connection = connection
                return True
            words = {"high": OWNER_LOCK >> 32, "low": OWNER_LOCK & 0xFFFFFFFF}
            holder = connection.execute(_HOLDER, words).one_or_none()
        finally:
            if self._connection is not connection:
                connection.close()
        if holder is not None and tuple(holder) == self._backend:
            return False
        raise NotOwnerError(
            f"The database belongs to a running server"
            f" ({holder.application_name if holder else 'that has just ended'}); stop"
            " that server or choose another MOONTUNE_DATABASE_URL."
        )

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """Look again and again whether the lock is still ours, until told to end."""
        while not self.ended.wait(LOOK_SECONDS):
            try:
                self._hold()
            except NotOwnerError as error:
                on_loss(str(error))
                return
            except SQLAlchemyError as error:
                _log.warning("database_away", detail=_reason(error))

    def _hold(self) -> None:
        """Take the lock again unless it is still ours."""
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                return
            except SQLAlchemyError as error:
                _log.warning("database_lost", detail=_reason(error))
                self.release()
        if self.take():
            _log.info("database_owned_again")

    def release(self) -> None:
        """Close the connection, which frees the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()
        self._engine.dispose()


def _name() -> str:
    """Who we are, for others that would own it."""
    name = f"moontune process {os.getpid()} started {timestamp()} on {socket.gethostname()}"
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def _reason(error: SQLAlchemyError) -> str:
    return str(error.args[0]).splitlines()[0]


def _engine(url: str, name: str) -> Engine:
    """Outside of transactions."""
    engine = create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "application_name": name,
            "connect_timeout": 3,
            "tcp_user_timeout": DEAD_LINK_MS,
        },
    )
    set_at_connect(engine, {"idle_session_timeout": _SILENT_MS})
    watch_client(engine)
    return engine
