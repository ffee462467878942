"""Which databases this run of the tests uses; `--database` says it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from tests import postgres

KINDS = ("sqlite", "postgresql")
chosen: list[str] = list(KINDS)
"""What tests run on that can run on each; set once by tests/conftest.py."""


def url_for(kind: str, data_dir: Path) -> str | None:
    """The URL of the migrated database of a data directory; None for the file inside of it."""
    return postgres.database_of(data_dir.resolve()) if kind == "postgresql" else None


def whole_system_url(data_dir: Path) -> str | None:
    """As `url_for`, for servers that run as processes: SQLite, unless PostgreSQL alone is meant."""
    return url_for("postgresql" if chosen == ["postgresql"] else "sqlite", data_dir)


def environment_of(data_dir: Path) -> dict[str, str]:
    """What has a server of this data directory, or a command beside it, use that database."""
    url = whole_system_url(data_dir)
    return {} if url is None else {"MOONTUNE_DATABASE_URL": url}


def damage() -> DatabaseError:
    """What a statement raises that meets a damaged page."""
    met = sqlite3.DatabaseError("database disk image is malformed")
    met.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return DatabaseError("SELECT", {}, met)
