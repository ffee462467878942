"""`moontune errors` and `moontune usage` on the command line; a server may run meanwhile.

What a server counted in its last seconds is not written yet; its endpoints show that as well.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from contract.ids import parse_ulid
from server.api.accounts import MAX_MS
from server.api.answers import refusal_item, usage_item
from server.db import refusals
from server.db.models import Refusal
from server.db.usage import By
from server.domain.caller import DEFAULT_ACCOUNT
from server.domain.clock import at_text
from server.domain.usage import hour_of
from server.keys_commands import WRONG_USAGE, AsJson, DataDir, fail, opened, read_config
from server.services.books import list_usage

MAX_ROWS = 10_000

AccountName = Annotated[str, typer.Option(help="Whose.")]


def errors(
    account: AccountName = DEFAULT_ACCOUNT,
    finetune: Annotated[str | None, typer.Option(help="Of this finetune only.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=refusals.NUM_KEPT, help="How many, from the newest back.")
    ] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a server refused lately and why, which the SDK does not; the newest comes last."""
    finetune_id = None if finetune is None else parse_ulid(finetune)
    if finetune is not None and finetune_id is None:
        fail("A finetune is named by its id.", WRONG_USAGE)
    with opened(read_config(data_dir, must_exist=True)) as database:
        rows = database.read_blocking(
            refusals.list_newest, account, before_id=None, finetune_id=finetune_id, limit=limit
        )
    rows.reverse()
    if as_json:
        typer.echo(json.dumps({"refusals": [refusal_item(row) for row in rows]}, indent=1))
        return
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        typer.echo("Nothing was refused.", err=True)


def usage(
    account: AccountName = DEFAULT_ACCOUNT,
    by: Annotated[By, typer.Option(help="What each line is of.")] = By.DAY,
    from_ms: Annotated[
        int, typer.Option(min=0, max=MAX_MS, help="Milliseconds since 1970; from that hour on.")
    ] = 0,
    to_ms: Annotated[
        int, typer.Option(min=0, max=MAX_MS, help="Hours that begin before.")
    ] = MAX_MS,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what an account used; docs/accounts.md says what the numbers mean."""
    with opened(read_config(data_dir, must_exist=True)) as database:
        rows = database.read_blocking(
            list_usage,
            account,
            by=by,
            from_ms=hour_of(from_ms),
            to_ms=to_ms,
            after_start_ms=None,
            after_name=None,
            limit=MAX_ROWS,
        )
    items = [usage_item(row, by) for row in rows]
    if as_json:
        typer.echo(json.dumps({"usage": items}, indent=1))
        return
    for row, item in zip(rows, items, strict=True):
        what = at_text(row.start_at_ms) if by.is_time else row.name or "none"
        numbers = (f"{name} {item[name]}" for name in item if not name.endswith(("_ms", "_id")))
        typer.echo(f"{what}  {'  '.join(numbers)}")
    if not rows:
        typer.echo("Nothing was used.", err=True)


def _line(row: Refusal) -> str:
    where = f"{row.method} {row.path}"
    return (
        f"{at_text(row.at_ms)}  {row.status} {row.code}  {where}  {row.message}  [{row.request_id}]"
    )
