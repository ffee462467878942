"""Bound the write-ahead log of SQLite, which grows for as long as somebody reads an old view."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from sqlalchemy import Engine, make_url

from server.domain.errors import OverloadedError

MAX_BYTES = 64 << 20
"""What the log may come to; a transaction of ours stays far below the difference to the next."""

EMPTIED_BYTES = 48 << 20


class WriteAheadLog:
    """The file beside a database; does nothing for databases that have none."""

    def __init__(self, url: str):
        parsed = make_url(url)
        is_file = parsed.get_backend_name() == "sqlite" and parsed.database
        self._path = Path(f"{parsed.database}-wal") if is_file else None

    @property
    def num_bytes(self) -> int:
        """How large it is now."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                return os.stat(self._path).st_size
        return 0

    def bound(self, writer: Engine) -> None:
        """Before a write: empty the log if it is large; waits for those who read an old view.

        Raises:
            OverloadedError: One of them does not end; without this the log would fill the disk.
        """
        if self.num_bytes <= EMPTIED_BYTES:
            return
        connection = writer.raw_connection()
        try:
            cursor = connection.cursor()
            (is_busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() or (1,)
            cursor.close()
        except sqlite3.OperationalError:
            is_busy = 1
        finally:
            connection.close()
        if is_busy:
            raise OverloadedError(
                f"A program that reads the database keeps its log of {self.num_bytes >> 20} MiB"
                " from being emptied. End it, then try again."
            )
