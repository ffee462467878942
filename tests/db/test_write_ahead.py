"""The write-ahead log of SQLite stays bounded beside a reader that does not end."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from server.config import ServerConfig
from server.db import engines, migrate, write_ahead
from server.db.connection import Database
from server.db.models import Meta
from server.domain.errors import OverloadedError


def test_a_reader_that_does_not_end_stops_writers_before_the_log_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(write_ahead, "EMPTIED_BYTES", 1 << 20)
    monkeypatch.setattr(engines, "_WAL_KEPT_BYTES", 1 << 18)
    config = ServerConfig(data_dir=tmp_path)
    migrate.upgrade(config)
    database = Database(config.resolved_database_url)
    log = tmp_path / "moontune.db-wal"

    num_writes = 0

    def write(session: Session) -> None:
        nonlocal num_writes
        num_writes += 1
        session.merge(Meta(key="large", value=f"{num_writes:9}" * 11_000))

    def read(session: Session) -> None:
        """Begin to read, and write until it is refused."""
        session.execute(text("SELECT count(*) FROM meta")).scalar_one()
        with pytest.raises(OverloadedError, match="keeps its log"):  # noqa: PT012
            while num_writes < 100:
                database.write_blocking(write)

    database.read_blocking(read)
    # 1 MiB of log, one write of 25 pages and more each time
    assert 5 < num_writes < 12
    assert log.stat().st_size < 1.5 * (1 << 20)
    database.write_blocking(write)  # the reader has ended: the log is emptied, then written
    assert log.stat().st_size < 1 << 18
    database.close()
