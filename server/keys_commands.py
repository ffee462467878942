"""`moontune keys create`, `list` and `revoke` on the command line; a server may run meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from sqlalchemy.exc import SQLAlchemyError

from server.config import DATABASE_FILE, ServerConfig, describe_faults, load_config
from server.db import api_keys
from server.db.connection import Database
from server.db.migrate import SchemaError
from server.db.models import ApiKey
from server.domain.caller import DEFAULT_ACCOUNT, Limits, Scope
from server.domain.clock import at_text
from server.domain.errors import ServiceError
from server.open_database import open_database
from server.services.keys import KeyRefusedError, create_key, revoke_key

REFUSED = 1
WRONG_USAGE = 2
_OTHERS_SEE_NOTHING = 0o077

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

app = typer.Typer(
    help="Keys that callers send: made, listed, revoked; a running server hears of it at once.",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for, such as `laptop`.")],
    account: Annotated[
        str, typer.Option(help="Whose key it is; accounts see nothing of one another.")
    ] = DEFAULT_ACCOUNT,
    scope: Annotated[
        Scope,
        typer.Option(help="Everything; inference only; or reading what there is and was done."),
    ] = Scope.FULL,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Calls a minute, then 429.")
    ] = None,
    max_concurrent_rollouts: Annotated[
        int | None, typer.Option(min=1, help="Rollouts calls at once, then 429.")
    ] = None,
    max_finetunes: Annotated[
        int | None, typer.Option(min=0, help="Finetunes of the account, then 403.")
    ] = None,
    max_stored_bytes: Annotated[
        int | None, typer.Option(min=0, help="Bytes of the account's files, then 403.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once: what is kept is its hash.

    From the first key on, a server that was open needs one of every caller.
    """
    os.umask(_OTHERS_SEE_NOTHING)
    limits = Limits(
        requests_per_minute=requests_per_minute,
        max_concurrent_rollouts=max_concurrent_rollouts,
        max_finetunes=max_finetunes,
        max_stored_bytes=max_stored_bytes,
    )
    with opened(read_config(data_dir)) as database:
        made = database.write_blocking(
            create_key, account_id=account, name=name, scope=scope, limits=limits
        )
    if as_json:
        typer.echo(json.dumps({"key": made.key, **_facts(made.row)}, indent=1))
        return
    typer.echo(made.key)
    typer.echo(
        f"This is the only time that it is shown. Account {account}, scope {scope.value},"
        f" id {made.row.id}.",
        err=True,
    )


@app.command("list")
def list_(
    account: Annotated[str | None, typer.Option(help="Of this account only.")] = None,
    with_revoked: Annotated[bool, typer.Option("--all", help="With revoked ones.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the keys, oldest first."""
    with opened(read_config(data_dir, must_exist=True)) as database:
        rows = database.read_blocking(api_keys.list_all, account_id=account)
    rows = [row for row in rows if with_revoked or row.revoked_at_ms is None]
    if as_json:
        typer.echo(json.dumps({"keys": [_facts(row) for row in rows]}, indent=1))
        return
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        typer.echo("There are no keys.", err=True)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or the beginning or name that a list shows.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good; a running server refuses it within two seconds."""
    with opened(read_config(data_dir, must_exist=True)) as database:
        row = database.write_blocking(revoke_key, key)
    typer.echo(json.dumps(_facts(row), indent=1) if as_json else f"Revoked: {_line(row)}")


@contextmanager
def opened(config: ServerConfig) -> Generator[Database]:
    """The database; whatever it refuses ends the command with a sentence."""
    try:
        with open_database(config) as database:
            yield database
    except (KeyRefusedError, SchemaError) as error:
        fail(str(error), REFUSED)
    except ServiceError as error:
        fail(error.message, REFUSED)
    except (SQLAlchemyError, ImportError, OSError) as error:
        fail(f"The database cannot be opened: {str(error).splitlines()[0]}", REFUSED)


def read_config(data_dir: Path | None, *, must_exist: bool = False) -> ServerConfig:
    """The configuration; ends the command if it is wrong, or no server was ever there."""
    given: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    try:
        config = load_config(**given)
    except ValueError as error:
        fail(describe_faults(error), WRONG_USAGE)
    is_there = config.database_url is not None or (config.data_dir / DATABASE_FILE).is_file()
    if must_exist and not is_there:
        fail(f"{config.data_dir} is not the data directory of a server.", WRONG_USAGE)
    return config


def fail(sentence: str, status: int) -> NoReturn:
    """End the command with a sentence."""
    typer.echo(f"moontune: {sentence}", err=True)
    raise typer.Exit(status)


def _facts(row: ApiKey) -> dict[str, Any]:
    """What may be known of a key."""
    return {
        "key_id": row.id,
        "prefix": row.prefix,
        "name": row.name,
        "account": row.account_id,
        "scope": row.scope,
        "requests_per_minute": row.requests_per_minute,
        "max_concurrent_rollouts": row.max_concurrent_rollouts,
        "max_finetunes": row.max_finetunes,
        "max_stored_bytes": row.max_stored_bytes,
        "created_at_ms": row.created_at_ms,
        "last_used_at_ms": row.last_used_at_ms,
        "revoked_at_ms": row.revoked_at_ms,
    }


def _line(row: ApiKey) -> str:
    used = "never used" if row.last_used_at_ms is None else f"used {at_text(row.last_used_at_ms)}"
    revoked = "" if row.revoked_at_ms is None else f"  revoked {at_text(row.revoked_at_ms)}"
    return (
        f"{row.id}  {row.prefix}...  {row.account_id}  {row.scope}  {row.name}"
        f"  made {at_text(row.created_at_ms)}  {used}{revoked}"
    )
