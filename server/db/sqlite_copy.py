"""A copy of a SQLite database that may be in use: whole, durable, and one file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from contract import durable


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database; the target has its name only when it is whole and on the disk.

    In one piece: beside a log nobody waits for it, and in portions it would begin anew with every
    commit of others.
    """
    partial = target.with_name(f".{target.name}.partial")
    durable.remove(partial)
    with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(partial)) as writing:
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    durable.sync(partial)
    durable.rename(partial, target)
