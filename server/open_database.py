"""The database of a data directory, for commands: beside a server, or where none has been yet."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress

from server.config import ServerConfig
from server.data_lock import DataDirectoryError, lock_data_directory
from server.db import migrate
from server.db.connection import Database
from server.db.sqlite_copy import sqlite_path


@contextmanager
def open_database(config: ServerConfig) -> Generator[Database]:
    """Open it at the schema of this release; without a server it is made or upgraded first.

    Raises:
        SchemaError: It cannot be used by this release.
    """
    with suppress(DataDirectoryError), lock_data_directory(config.data_dir):
        migrate.upgrade(config)  # a server that runs has done it
    path = sqlite_path(config.resolved_database_url)
    if path is not None and not path.exists():  # and connecting would make an empty one
        raise migrate.SchemaError(
            f"{path} is not there yet: {config.data_dir} is being restored, or its server starts."
            " Try again when it has."
        )
    database = Database(config.resolved_database_url)
    try:
        migrate.require_current(database)
        yield database
    finally:
        database.close()
