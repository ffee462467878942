"""`moontune backup`: a database and the files it names, whole, while a server goes on.

DIR/moontune.db       a copy of the database
DIR/finetunes/...     the files that its rows name
DIR/backup.json       written last, with the digest of each: without it there is no backup
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from contract import durable
from contract.engine import FileRef
from contract.errors import StorageFull
from server.config import DATABASE_FILE, ServerConfig
from server.db import migrate
from server.db.connection import Database
from server.db.named_files import NamedFile, list_named_files
from server.db.sqlite_copy import copy_sqlite
from server.domain.clock import timestamp
from server.release import release_name
from server.sweep_lease import reading_all

BACKUP_FILE = "backup.json"
FORMAT = 1


class BackupError(Exception):
    """There is no backup, or it cannot be used; the message is a sentence for people."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a backup holds; `backup.json`."""

    format: int
    release: str
    schema: str
    made_at: str
    database: FileRef
    files: tuple[FileRef, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return self.database.num_bytes + sum(file.num_bytes for file in self.files)


def back_up(config: ServerConfig, target: Path) -> Backup:
    """Copy a data directory that may be in use into a folder that is empty or not there.

    Raises:
        BackupError: Why not; what was copied until then stays, without a `backup.json`.
    """
    source = config.data_dir / DATABASE_FILE
    if config.database_url is not None:
        raise BackupError(
            "`moontune backup` copies SQLite databases. Stop the server, then take pg_dump and a"
            " copy of the data directory; docs/operations.md says how."
        )
    if not source.is_file():
        raise BackupError(f"{config.data_dir} is not the data directory of a server.")
    require_empty(target)
    with _told_in_a_sentence():
        durable.make_directory(target.resolve())
        with reading_all(config.data_dir):  # what the copied rows name stays until it is copied
            schema = _schema(config)
            copy_sqlite(source, target / DATABASE_FILE)
            files = [
                _copy(named, config.data_dir, target) for named in named_in(target / DATABASE_FILE)
            ]
        backup = Backup(
            format=FORMAT,
            release=release_name(),
            schema=schema,
            made_at=timestamp(),
            database=describe(target, DATABASE_FILE),
            files=tuple(files),
        )
        content = json.dumps(asdict(backup), indent=1).encode()
        durable.write_file(target.resolve() / BACKUP_FILE, content)
    return backup


def read_backup(folder: Path) -> Backup:
    """Return what a folder says that it holds.

    Raises:
        BackupError: It is no whole backup.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / BACKUP_FILE).read_text())
        files = tuple(FileRef(**file) for file in facts.pop("files"))
        backup = Backup(database=FileRef(**facts.pop("database")), files=files, **facts)
    except FileNotFoundError:
        raise BackupError(f"{folder} is no backup, or one that was not finished.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackupError(f"{folder / BACKUP_FILE} cannot be read: {error}.") from error
    if backup.format != FORMAT:
        raise BackupError(
            f"The backup has format {backup.format}, made by {backup.release}; this release reads"
            f" format {FORMAT}."
        )
    return backup


def named_in(database_file: Path) -> list[NamedFile]:
    """Return the files that the rows of a database name which nobody serves."""
    engine = create_engine(
        f"sqlite:///file:{database_file.resolve()}?mode=ro&uri=true", poolclass=NullPool
    )
    with Session(engine) as session:
        return list_named_files(session)


def describe(folder: Path, path: str) -> FileRef:
    """Return the digest and the size of a file, its path relative to the folder."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRef(path=path, digest=digest, num_bytes=file.seek(0, 2))


def require_empty(folder: Path, *, but: Sequence[str] = ()) -> None:
    """Refuse a folder in which something is.

    Args:
        but: Names that may be there.

    Raises:
        BackupError: Naming it.
    """
    try:
        is_empty = not folder.exists() or not {path.name for path in folder.iterdir()} - {*but}
    except NotADirectoryError:
        is_empty = False
    if not is_empty:
        raise BackupError(f"{folder} is not empty; name a folder that is, or that is not there.")


def _copy(named: NamedFile, data_dir: Path, target: Path) -> FileRef:
    try:
        source = FileRef(
            path=str(data_dir / named.file.path),
            digest=named.file.digest,
            num_bytes=named.file.num_bytes,
        )
        durable.copy_file(source, (target / named.file.path).resolve())
    except durable.DamagedFileError as error:
        raise BackupError(
            f"{named.file.path}, which {named.named_by} needs, is missing or damaged, or may not be"
            " read; `moontune verify` lists all such files with the reason. Mend them, or delete"
            " what needs them, then try again."
        ) from error
    return named.file


def _schema(config: ServerConfig) -> str:
    database = Database(config.resolved_database_url)
    try:
        schema = migrate.schema_of(database)
    except migrate.SchemaError as error:
        raise BackupError(str(error)) from error
    finally:
        database.close()
    if schema is None:
        raise BackupError("The database is empty; there is nothing to back up.")
    if schema != migrate.newest_schema():
        raise BackupError(
            f"The database has schema {schema}, this release backs up {migrate.newest_schema()}:"
            " use the release that made it, or `moontune serve`, which copies and upgrades it."
        )
    return schema


@contextmanager
def _told_in_a_sentence() -> Generator[None]:
    try:
        yield
    except StorageFull as error:
        raise BackupError(f"The disk of the backup is full: {error}") from error
    except OSError as error:
        raise BackupError(f"The backup cannot be written: {error}.") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(error).splitlines()[0]
        raise BackupError(
            f"The database cannot be copied: {reason}. `moontune doctor` says what to do."
        ) from error
