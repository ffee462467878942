"""A copy of a SQLite database that may be in use: whole, durable, and one file."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from itertools import zip_longest
from pathlib import Path

from sqlalchemy import make_url

from contract import disk, durable

_PARTIAL = ".partial"
_BESIDE = ("", "-journal", "-wal", "-shm")
"""What SQLite makes beside a database that it writes, and the database."""


def sqlite_path(url: str) -> Path | None:
    """Return the file of a database, if it is one."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database; the target has its name only when it is whole and on the disk.

    In one piece: beside a log nobody waits for it, and in portions it would begin anew with every
    commit of others.

    Raises:
        StorageFull: There is no space; nothing is left behind.
        OSError, sqlite3.Error: The disk or the database failed; nothing is left behind.
    """
    partial = target.with_name(f".{target.name}{_PARTIAL}")
    _remove(partial)
    log = source.with_name(f"{source.name}-wal")
    num_bytes = sum(path.stat().st_size for path in (source, log) if path.exists())
    disk.require_space(target.parent, num_bytes=num_bytes, min_free_bytes=0)
    try:
        with (
            closing(sqlite3.connect(source)) as reading,
            closing(sqlite3.connect(partial)) as writing,
        ):
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        durable.sync(partial)
        durable.rename(partial, target)
    except BaseException:
        with suppress(OSError):
            _remove(partial)
        raise


def remove_partial_copies(folder: Path, pattern: str) -> None:
    """Remove what is left of copies whose maker died; none of these names may be in the making."""
    for ending in _BESIDE:
        for path in folder.glob(f".{pattern}{_PARTIAL}{ending}"):
            durable.remove(path)


def holds_the_same(copy: Path, source: Path) -> bool:
    """Whether a copy is sound and has every row of its source, and no other."""
    names = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    try:
        with closing(sqlite3.connect(copy)) as one, closing(sqlite3.connect(source)) as other:
            other.execute("BEGIN")
            things = one.execute(names).fetchall()
            if things != other.execute(names).fetchall():
                return False
            if one.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
                return False
            tables = [name.replace('"', '""') for kind, name, _ in things if kind == "table"]
            queries = [f'SELECT * FROM "{table}"' for table in tables]  # in order of their pages
            return all(
                row == other_row
                for query in queries
                for row, other_row in zip_longest(one.execute(query), other.execute(query))
            )
    except sqlite3.Error:
        return False


def _remove(partial: Path) -> None:
    for ending in _BESIDE:
        durable.remove(partial.with_name(f"{partial.name}{ending}"))
