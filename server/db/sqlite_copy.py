"""A copy of a SQLite database that may be in use: whole, durable, and one file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

_PAGES_AT_ONCE = 4096
"""16 MiB: others write between two portions, and the copy takes their changes along."""


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database; the target has its name only when it is whole and on the disk."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(partial)) as writing:
        reading.backup(writing, pages=_PAGES_AT_ONCE)
        writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    sync(partial)
    partial.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
