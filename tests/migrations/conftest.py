"""A database that is not migrated yet, on each kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config import ServerConfig
from tests import postgres


@pytest.fixture
def config(tmp_path: Path, database_kind: str) -> Iterator[ServerConfig]:
    """The configuration of a data directory with nothing in it."""
    data_dir = tmp_path / "data"
    if database_kind == "sqlite":
        yield ServerConfig(data_dir=data_dir)
        return
    server = postgres.server()
    name = server.create()
    yield ServerConfig(data_dir=data_dir, database_url=server.url(name))
    server.drop(name)
