"""Two connections to one migrated database, as two processes would have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config import ServerConfig
from server.db import migrate
from server.db.connection import Database
from tests import postgres


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def url(tmp_path: Path, database_kind: str) -> str:
    """A migrated database of this test's own."""
    if database_kind == "postgresql":
        return postgres.fresh()
    config = ServerConfig(data_dir=tmp_path / "data")
    migrate.upgrade(config)
    return config.resolved_database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def other(url: str) -> Iterator[Database]:
    """The same database from elsewhere."""
    opened = Database(url)
    yield opened
    opened.close()
