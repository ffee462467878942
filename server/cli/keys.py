"""`moontune keys create`, `list` and `revoke`; a server may run meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.ledger import opened
from server.cli.manners import (
    OTHERS_SEE_NOTHING,
    AsJson,
    DataDir,
    config_of,
    show_json,
    show_table,
    tell,
)
from server.cli.times import readable_time
from server.domain.caller import DEFAULT_ACCOUNT, Limits, Scope

if TYPE_CHECKING:
    from server.db.models import ApiKey

_HEAD = ["id", "key", "account", "scope", "made", "used", "revoked", "name"]

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
    from server.services.keys import create_key

    os.umask(OTHERS_SEE_NOTHING)
    limits = Limits(
        requests_per_minute=requests_per_minute,
        max_concurrent_rollouts=max_concurrent_rollouts,
        max_finetunes=max_finetunes,
        max_stored_bytes=max_stored_bytes,
    )
    with opened(config_of(data_dir=data_dir)) as database:
        made = database.write_blocking(
            create_key, account_id=account, name=name, scope=scope, limits=limits
        )
    if as_json:
        show_json({"key": made.key, **_facts(made.row)})
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
    from server.db import api_keys

    with opened(config_of(data_dir=data_dir), must_exist=True) as database:
        rows = database.read_blocking(api_keys.list_all, account_id=account)
    rows = [row for row in rows if with_revoked or row.revoked_at_ms is None]
    if as_json:
        show_json({"keys": [_facts(row) for row in rows]})
    elif rows:
        show_table(_HEAD, [_cells(row) for row in rows])
    else:
        tell("There are no keys.")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or the beginning or name that a list shows.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a key for good; a running server refuses it within two seconds."""
    from server.services.keys import revoke_key

    with opened(config_of(data_dir=data_dir), must_exist=True) as database:
        row = database.write_blocking(revoke_key, key)
    if as_json:
        show_json(_facts(row))
    else:
        typer.echo(f"Revoked: {row.name} ({row.prefix}..., {row.id}).")


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


def _cells(row: ApiKey) -> list[str]:
    moments = (row.created_at_ms, row.last_used_at_ms, row.revoked_at_ms)
    times = ["-" if at_ms is None else readable_time(at_ms) for at_ms in moments]
    return [row.id, f"{row.prefix}...", row.account_id, row.scope, *times, row.name]
