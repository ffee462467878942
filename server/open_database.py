"""The database of a data directory, for commands: beside a server, or where none has been yet."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress

from server.config import ServerConfig
from server.data_lock import DataDirectoryError, lock_data_directory
from server.db import migrate
from server.db.connection import Database


@contextmanager
def open_database(config: ServerConfig) -> Generator[Database]:
    """Open it at the schema of this release; without a server it is made or upgraded first.

    Raises:
        SchemaError: It cannot be used by this release.
    """
    with suppress(DataDirectoryError), lock_data_directory(config.data_dir):
        migrate.upgrade(config)  # a server that runs has done it
    database = Database(config.resolved_database_url)
    try:
        migrate.require_current(database)
        yield database
    finally:
        database.close()
