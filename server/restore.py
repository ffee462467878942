"""`moontune restore`: a backup becomes a data directory, after every digest was compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from contract import durable
from contract.engine import FileRef
from contract.errors import StorageFull
from server.backup import BackupError, named_in, read_backup, require_empty
from server.config import DATABASE_FILE, ServerConfig
from server.data_lock import LOCK_FILE, DataDirectoryError, lock_data_directory
from server.db import migrate
from server.db.connection import Database
from server.db.meta import next_epoch
from server.verification import Findings, verify


def restore(folder: Path, config: ServerConfig) -> Findings:
    """Make the data directory of the configuration from a backup.

    The database gets its name last, and the directory is owned meanwhile, so that nobody serves a
    part. It gets a new epoch: no worker of before can finish anything here.

    Raises:
        BackupError: The backup is not whole, damaged or of a newer release; or the data directory
            is not empty, or belongs to somebody.
    """
    if config.database_url is not None:
        raise BackupError("A backup becomes a SQLite database; unset MOONTUNE_DATABASE_URL first.")
    backup = read_backup(folder)
    data_dir = config.data_dir.resolve()
    require_empty(data_dir, but=(LOCK_FILE,))  # which an attempt leaves that failed at once
    try:
        if backup.schema == migrate.newest_schema():
            _compare(folder, backup.files)  # of an older one the rows are read once upgraded
        durable.make_directory(data_dir)
        with lock_data_directory(data_dir):
            require_empty(data_dir, but=(LOCK_FILE,))  # now that nobody else can begin here
            for file in backup.files:
                durable.copy_file(_at(folder, file), data_dir / file.path)
            if (data_dir / DATABASE_FILE).exists():
                raise BackupError(f"Somebody made a {DATABASE_FILE} in {data_dir} meanwhile.")
            durable.copy_file(_at(folder, backup.database), data_dir / backup.database.path)
            copy = migrate.upgrade(config)
            if copy is not None:  # the backup is the way back
                durable.remove(copy)
            _begin_anew(config)
            findings = verify(config)
    except DataDirectoryError as error:
        raise BackupError(str(error)) from error
    except durable.DamagedFileError as error:
        raise BackupError(f"The backup is damaged: {error}.") from error
    except StorageFull as error:
        raise BackupError(f"The disk of {data_dir} is full: {error}") from error
    except (migrate.SchemaError, SQLAlchemyError) as error:
        raise BackupError(f"The backup cannot be used: {error}") from error
    except OSError as error:
        raise BackupError(
            f"The backup cannot be read, or its copy not written: {error}."
        ) from error
    if not findings.is_good:
        raise BackupError(f"What was restored is not whole: {findings.problems[0].detail}.")
    return findings


def _compare(folder: Path, files: tuple[FileRef, ...]) -> None:
    """Refuse a backup whose rows name a file that it does not list."""
    listed = set(files)
    for named in named_in(folder / DATABASE_FILE):
        if named.file not in listed:
            raise BackupError(f"The backup lacks {named.file.path}, which {named.named_by} needs.")


def _at(folder: Path, file: FileRef) -> FileRef:
    path = (folder / file.path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BackupError(f"The backup names {file.path}, which lies outside of it.")
    return dataclasses.replace(file, path=str(path))


def _begin_anew(config: ServerConfig) -> None:
    database = Database(config.resolved_database_url)
    try:
        database.write_blocking(next_epoch)
    finally:
        database.close()
