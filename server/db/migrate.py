"""Bring a database to the schema of this release, after a backup; refuse a newer one."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from contract.errors import StorageFull
from server.config import DATABASE_FILE, FINETUNES_FOLDER, ServerConfig
from server.db import kept_aside
from server.db.connection import Database
from server.db.meta import RELEASE
from server.db.sqlite_copy import copy_sqlite, holds_the_same, remove_partial_copies, sqlite_path
from server.release import release_name


class SchemaError(Exception):
    """The database has a schema that this release cannot use; the message says what to do."""


def upgrade(config: ServerConfig) -> Path | None:
    """Create the database, or bring an older one up to date after copying it aside.

    Returns:
        The copy, where one was needed.

    Raises:
        SchemaError: A newer release made it, it is not ours, or it could not be copied or
            upgraded, and is as it was; or it is gone, and its finetunes are there.
    """
    if config.database_url is None:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    path = sqlite_path(config.resolved_database_url)
    if path is not None and not path.exists():
        _require_new(config)
    database = Database(config.resolved_database_url)
    try:
        if path is not None:
            remove_partial_copies(path.parent, kept_aside.pattern(path))
        with database.writer.connect() as connection, connection.begin():
            current = _check(connection)
            if current == newest_schema():
                _sign(connection)
                return None
        if current is None:
            _require_new(config)
        kept = None if current is None or path is None else _back_up(path, current)
        try:
            with database.writer.connect() as connection, connection.begin():
                command.upgrade(_alembic(connection), "head")  # all revisions, or none of them
                _sign(connection)
        except (SQLAlchemyError, CommandError, OSError) as error:
            raise SchemaError(
                f"The database could not be upgraded from schema {current or 'none'} to"
                f" {newest_schema()} and is as it was: {_first_line(error)}."
                f"{f' A copy of it is {kept}.' if kept else ''}"
            ) from error
        return kept
    finally:
        database.close()


def lost_database(config: ServerConfig) -> str | None:
    """Say what is wrong if there are trained weights, so that an empty database is no new one."""
    if config.database_url is not None or not any((config.data_dir / FINETUNES_FOLDER).glob("*/*")):
        return None
    return (
        f"{config.data_dir} holds finetunes, but no {DATABASE_FILE} that knows them: a restore was"
        " broken off, somebody moved it, or it is PostgreSQL's and MOONTUNE_DATABASE_URL is not set"
    )


def _require_new(config: ServerConfig) -> None:
    """Refuse to begin anew beside trained weights: the database would know none of them."""
    lost = lost_database(config)
    if lost is not None:
        raise SchemaError(
            f"{lost}. Put it back, set that, restore the backup into an empty folder, or name"
            " another --data-dir."
        )


def require_current(database: Database) -> None:
    """Refuse to work on a schema that is not this release's.

    Raises:
        SchemaError: It is older, newer, or not there.
    """
    with database.writer.connect() as connection, connection.begin():
        current = _check(connection)
    if current != newest_schema():
        raise SchemaError(
            f"The database has schema {current or 'none'}, this release needs {newest_schema()}."
            f" Run `moontune serve`, which upgrades it{_of_backup(database)}."
        )


def schema_of(database: Database) -> str | None:
    """Return the schema that a database has, if this release knows it.

    Raises:
        SchemaError: A newer release made it, or it is not ours.
    """
    with database.readers.connect() as connection, connection.begin():
        return _check(connection)


def newest_schema() -> str | None:
    """The schema of this release."""
    return _revisions(_folder())[0]


@cache
def _revisions(folder: Path) -> tuple[str | None, frozenset[str]]:
    """The newest schema and all that this release knows; Alembic compiles each of their files."""
    scripts = ScriptDirectory(str(folder))
    return scripts.get_current_head(), frozenset(s.revision for s in scripts.walk_revisions())


def _check(connection: Connection) -> str | None:
    """Return the revision of a database, None for an empty one."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in _revisions(_folder())[1]:
        made_by = _signature(connection)
        raise SchemaError(
            f"The database has schema {current}, which a newer release made"
            f"{f' ({made_by})' if made_by else ''}; {release_name()} knows up to {newest_schema()}."
            " Install that release, or restore a backup of the database."
        )
    return current


def _sign(connection: Connection) -> None:
    """Leave the name of this release, for older ones that meet a schema they do not know."""
    if _signature(connection) == release_name():
        return
    words = {"key": RELEASE, "name": release_name()}
    connection.execute(text("DELETE FROM meta WHERE key = :key"), {"key": RELEASE})
    connection.execute(text("INSERT INTO meta (key, value) VALUES (:key, :name)"), words)


def _signature(connection: Connection) -> str | None:
    if not inspect(connection).has_table("meta"):
        return None
    found = connection.execute(text("SELECT value FROM meta WHERE key = :key"), {"key": RELEASE})
    return found.scalar()


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _folder() -> Path:
    """The revisions: inside an installed wheel, else in the checkout."""
    package = Path(__file__).parents[1]
    bundled = package / "_bundled" / "migrations"
    return bundled if bundled.is_dir() else package.parent / "migrations"


def _back_up(path: Path, revision: str) -> Path:
    """Copy a SQLite database next to itself while it may be in use; others have their own tools.

    A copy that an earlier start made, whose upgrade then failed, is as good as another.

    Raises:
        SchemaError: There is no copy, and nothing is left of it.
    """
    for kept in kept_aside.copies(path, revision):
        if holds_the_same(kept, path):
            return kept
    target = kept_aside.new_copy(path, revision)
    try:
        copy_sqlite(path, target)
    except (OSError, sqlite3.Error, StorageFull) as error:
        raise SchemaError(
            f"The database could not be copied aside before its upgrade: {_first_line(error)}."
            " It is as it was; see to the disk and start again."
        ) from error
    return target


def _of_backup(database: Database) -> str:
    """What an upgrade does about a copy, for a sentence."""
    is_file = database.writer.dialect.name == "sqlite"
    return " after a backup" if is_file else "; take pg_dump before, for it makes no copy"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
