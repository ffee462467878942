"""How Alembic runs our revisions: on a connection it is handed, or on MOONTUNE_DATABASE_URL."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from server.config import ServerConfig
from server.db.connection import Database
from server.db.models import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


handed = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
else:
    database = Database(ServerConfig().resolved_database_url)
    with database.writer.connect() as own, own.begin():
        run(own)
    database.close()
