"""The ledgers that earlier code left, as databases of either kind."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, insert

from server.config import DATABASE_FILE, ServerConfig
from server.db import migrate
from server.db.connection import Database

FOLDER = Path(__file__).with_name("recorded")
MIGRATIONS = Path(migrate.__file__).parents[2] / "migrations"
SCHEMAS = sorted(path.name for path in FOLDER.iterdir())
_NOT_ROWS = ("alembic_version", "sqlite_sequence")


def lay_out(schema: str, config: ServerConfig) -> None:
    """Make the data directory and the database what they were when they were recorded."""
    recorded = FOLDER / schema
    config.data_dir.mkdir(parents=True, exist_ok=True)
    shutil.copytree(recorded / "finetunes", config.data_dir / "finetunes")
    path = config.data_dir / DATABASE_FILE
    with closing(sqlite3.connect(path)) as database:
        database.executescript((recorded / "ledger.sql").read_text())
    if config.database_url is not None:
        _move_rows(path, schema, config.database_url)
        path.unlink()


def _move_rows(path: Path, schema: str, url: str) -> None:
    """Into a database that the revisions up to this one make."""
    target = Database(url)
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    with target.writer.connect() as connection, connection.begin():
        settings.attributes["connection"] = connection
        command.upgrade(settings, schema)
        tables = MetaData()
        tables.reflect(connection)
        with closing(sqlite3.connect(path)) as source:
            source.row_factory = sqlite3.Row
            for table in tables.sorted_tables:
                if table.name in _NOT_ROWS:
                    continue
                connection.execute(table.delete())
                for row in source.execute(f"SELECT * FROM {table.name}"):
                    values = dict(row)
                    if "applied" in values:
                        values["applied"] = bool(values["applied"])
                    connection.execute(insert(table).values(**values))
        connection.exec_driver_sql(
            "SELECT setval('finetunes_ordinal_seq', (SELECT max(ordinal) FROM finetunes))"
        )
    target.close()
