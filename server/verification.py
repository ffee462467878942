"""Whether a data directory holds what its database says: every file by its digest, and the rest.

Works beside a running server. While it reads, no file is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from server.config import DATABASE_FILE, ServerConfig
from server.db import checkpoints, finetunes, kept_aside, migrate
from server.db.connection import Database
from server.db.named_files import NamedFile, list_named_files
from server.db.trouble import is_damage
from server.services.manifests import faults_of
from server.sweep_lease import reading_all

FOLDERS = ("finetunes", "batches")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        kind: `missing`, `size`, `digest`, `manifest` or `database`; `copy` where the database is
            right and the way back to an older one is not.
        path: Of the file, relative to the data directory; of the database or the copy where it is
            about that.
    """

    kind: str
    path: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found.

    Attributes:
        num_files: Files that rows name, and how many bytes they are.
        unnamed: Files that no row names: being written now, or left for the next sweep.
        kept_aside: Files that only copies of the database need that were made before its upgrades,
            or that they may need while one cannot be read.
    """

    num_files: int
    num_bytes: int
    problems: tuple[Problem, ...]
    unnamed: tuple[str, ...]
    kept_aside: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether all that is named is there and right."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"is_good": self.is_good, **asdict(self)}


def verify(config: ServerConfig) -> Findings:
    """Check a data directory.

    Of a database that cannot be read for damage that is all there is to say.

    Raises:
        SchemaError: The database has a schema that this release does not know.
    """
    database = Database(config.resolved_database_url)
    try:
        return _verified(config, database)
    except DBAPIError as error:
        if not is_damage(error):
            raise
        damage = Problem(kind="database", path=DATABASE_FILE, detail=str(error.orig))
        return Findings(num_files=0, num_bytes=0, problems=(damage,), unnamed=())
    finally:
        database.close()


def _verified(config: ServerConfig, database: Database) -> Findings:
    migrate.require_current(database)
    with reading_all(config.data_dir):
        problems, named = database.read_blocking(_look)
        for file in named:
            problems += check_file(config.data_dir, file)
        unnamed = _unnamed(config.data_dir, {file.file.path for file in named})
        aside = kept_aside.read(config.resolved_database_url)
        deleted = database.read_blocking(finetunes.list_deleted_ids)
        problems += _problems_of_copies(config.data_dir, aside, deleted)
    return Findings(
        num_files=len(named),
        num_bytes=sum(file.file.num_bytes for file in named),
        problems=tuple(problems),
        unnamed=tuple(path for path in unnamed if not aside.may_need(path)),
        kept_aside=tuple(path for path in unnamed if aside.may_need(path)),
    )


def check_file(data_dir: Path, named: NamedFile) -> list[Problem]:
    """Compare a file with its row."""

    def problem(kind: str, detail: str) -> list[Problem]:
        return [
            Problem(kind=kind, path=named.file.path, detail=f"{detail} ({named.named_by} needs it)")
        ]

    try:
        with (data_dir / named.file.path).open("rb") as file:
            num_bytes = file.seek(0, 2)
            if num_bytes != named.file.num_bytes:
                return problem("size", f"has {num_bytes} bytes, not {named.file.num_bytes}")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return problem("missing", f"cannot be read: {error.strerror}")
    if digest != named.file.digest:
        return problem("digest", f"has SHA-256 {digest}, not {named.file.digest}")
    return []


def _look(session: Session) -> tuple[list[Problem], list[NamedFile]]:
    """What the rows say, on one view of them."""
    problems = [
        Problem(kind="manifest", path=str(row.weights_path), detail=f"checkpoint {row.id}: {fault}")
        for row in checkpoints.list_all_living(session)
        for fault in faults_of(row)
    ]
    return [*_database_problems(session), *problems], list_named_files(session)


def _database_problems(session: Session) -> Iterator[Problem]:
    """Ask SQLite about itself; PostgreSQL has checksums and tools of its own."""
    if session.get_bind().dialect.name != "sqlite":
        return
    for (answer,) in session.execute(text("PRAGMA integrity_check")):
        if answer != "ok":
            yield Problem(kind="database", path=DATABASE_FILE, detail=answer)
    for row in session.execute(text("PRAGMA foreign_key_check")):
        detail = f"row {row[1]} of {row[0]} names a row of {row[2]} that is not there"
        yield Problem(kind="database", path=DATABASE_FILE, detail=detail)


def _problems_of_copies(
    data_dir: Path, aside: kept_aside.Aside, deleted: set[str]
) -> Iterator[Problem]:
    """What is wrong with the way back; that a deleted finetune does not come back is right."""
    for copy, reason in aside.unread.items():
        yield Problem(
            kind="copy",
            path=copy.name,
            detail=f"cannot be read: {reason}; no state of before is removed while it lies there."
            f" {kept_aside.CURE.capitalize()}",
        )
    for path, copy in aside.needed.items():
        if Path(path).parent.name not in deleted and not (data_dir / path).is_file():
            yield Problem(
                kind="copy",
                path=path,
                detail=f"is missing: {copy.name} is no whole way back; {kept_aside.CURE}",
            )


def _unnamed(data_dir: Path, named: set[str]) -> list[str]:
    paths = (
        path.relative_to(data_dir).as_posix()
        for folder in FOLDERS
        for path in (data_dir / folder).rglob("*")
        if path.is_file()
    )
    return sorted(path for path in paths if path not in named)
