"""One server per PostgreSQL database: an advisory lock on a connection of its own.

The lock lives as long as its connection. Should that break, it is taken again at once; when another
server was faster, `on_loss` is called and we stop. PostgreSQL may not know yet that the connection
broke: a session that says nothing for `_SILENT_MS` ends, and so long we wait for our own. A SQLite
database is owned with its directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
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
RETAKE_SECONDS = 30.0
"""How long the lock may belong to our own session that broke."""

_SILENT_MS = 20_000
_MAX_NAME_BYTES = 63  # PostgreSQL cuts application names there
_log = structlog.get_logger("server.ownership")

_OWN_PID = text("SELECT pg_backend_pid()")
_TRY = text("SELECT pg_try_advisory_lock(:number)")
_HOLDER = text(
    "SELECT pid, application_name FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    " AND classid::bigint = :high AND objid::bigint = :low"
)


class NotOwnerError(Exception):
    """Another server has the database, or it cannot be reached; the message is a sentence."""


class _StillOursError(NotOwnerError):
    """Our own session has the lock, which broke and is not yet known to be dead."""


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
        self._name = _own_name()
        self._engine = _engine(url, self._name)
        self._connection: Connection | None = None
        self._session = 0
        self.ended = threading.Event()

    def take(self) -> None:
        """Take the lock.

        Raises:
            NotOwnerError: Somebody else has it.
        """
        connection = self._engine.connect()
        if connection.execute(_TRY, {"number": OWNER_LOCK}).scalar_one():
            self._session = connection.execute(_OWN_PID).scalar_one()
            self._connection = connection
            return
        words = {"high": OWNER_LOCK >> 32, "low": OWNER_LOCK & 0xFFFFFFFF}
        found = connection.execute(_HOLDER, words).one_or_none()
        connection.close()
        session, holder = found or (None, "that has just ended")
        is_ours = (session, holder) == (self._session, self._name)
        raise (_StillOursError if is_ours else NotOwnerError)(
            f"The database belongs to a running server ({holder}); stop that server or choose"
            " another MOONTUNE_DATABASE_URL."
        )

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """Look again and again whether the lock is still ours, until told to end."""
        last_owned = time.monotonic()
        while not self.ended.wait(LOOK_SECONDS):
            try:
                if self._connection is None:
                    self.take()
                    _log.info("database_owned_again")
                else:
                    self._connection.execute(text("SELECT 1"))
                last_owned = time.monotonic()
            except _StillOursError as error:
                if time.monotonic() - last_owned > RETAKE_SECONDS:
                    on_loss(str(error))
                    return
            except NotOwnerError as error:
                on_loss(str(error))
                return
            except SQLAlchemyError as error:
                _log.warning("database_lost", detail=str(error.args[0]).splitlines()[0])
                self.release()

    def release(self) -> None:
        """Close the connection, which frees the lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                connection.close()
        self._engine.dispose()


def _own_name() -> str:
    """Says who we are, for others that would own the database."""
    name = f"moontune process {os.getpid()} started {timestamp()} on {socket.gethostname()}"
    return name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


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
