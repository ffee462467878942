"""What PostgreSQL does about clients that end without a word; no FIN, no RST."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from server.db import engines
from server.db.connection import Database

pytestmark = pytest.mark.database("postgresql")

_SET_BY_US = text(
    "SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE 'tcp_keepalives_%'"
)


def test_a_transaction_that_stands_frees_the_write_lock(
    url: str, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_SILENT_TRANSACTION_MS", 50)
    silent = Database(url)
    with silent.writer.connect() as connection:
        connection.begin()
        assert other.write_blocking(lambda session: session.scalar(text("SELECT 1"))) == 1
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))
    silent.close()


def test_the_server_looks_after_idle_clients(database: Database) -> None:
    """A Unix socket has no keepalives: that they were asked for is all that shows on it."""
    for engine in (database.writer, database.readers):
        with engine.connect() as connection:
            names = set(connection.execute(_SET_BY_US).scalars())
        assert names == {f"tcp_keepalives_{key}" for key in ("idle", "interval", "count")}
    with database.writer.connect() as connection:
        name = "idle_in_transaction_session_timeout"
        assert connection.execute(text(f"SHOW {name}")).scalar() == "10s"
