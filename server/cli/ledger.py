"""The database of a data directory, for verbs that read or write it beside a running server."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.cli.manners import Exit, refuse
from server.config import DATABASE_FILE, ServerConfig

if TYPE_CHECKING:
    from server.db.connection import Database


@contextmanager
def opened(config: ServerConfig, *, must_exist: bool = False) -> Generator[Database]:
    """The database; whatever it refuses ends the verb with a sentence.

    Args:
        must_exist: Whether a data directory where no server ever was is a mistake.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from server.db.migrate import SchemaError
    from server.domain.errors import ServiceError
    from server.open_database import open_database
    from server.services.keys import KeyRefusedError

    is_there = config.database_url is not None or (config.data_dir / DATABASE_FILE).is_file()
    if must_exist and not is_there:
        refuse(f"{config.data_dir} is not the data directory of a server.", Exit.WRONG_USAGE)
    try:
        with open_database(config) as database:
            yield database
    except (KeyRefusedError, SchemaError) as error:
        refuse(str(error))
    except ServiceError as error:
        refuse(error.message)
    except (SQLAlchemyError, ImportError, OSError) as error:
        refuse(f"The database cannot be opened: {str(error).splitlines()[0]}")
