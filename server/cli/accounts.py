"""`moontune errors` and `moontune usage`; a server may run meanwhile.

What a server counted in its last seconds is not written yet; its endpoints show that as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from contract.ids import parse_ulid
from server.cli.ledger import opened
from server.cli.manners import (
    AsJson,
    DataDir,
    Exit,
    config_of,
    refuse,
    show_json,
    show_table,
    tell,
)
from server.cli.times import readable_time
from server.domain.caller import DEFAULT_ACCOUNT
from server.domain.usage import MAX_MS, MAX_REFUSALS, By, hour_of

if TYPE_CHECKING:
    from server.db.models import Refusal

MAX_ROWS = 10_000

AccountName = Annotated[str, typer.Option(help="Whose.")]


def errors(
    account: AccountName = DEFAULT_ACCOUNT,
    finetune: Annotated[str | None, typer.Option(help="Of this finetune only.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_REFUSALS, help="How many, from the newest back.")
    ] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what a server refused lately and why, which the SDK does not; the newest comes last."""
    from server.api.answers import refusal_item
    from server.db import refusals

    finetune_id = None if finetune is None else parse_ulid(finetune)
    if finetune is not None and finetune_id is None:
        refuse("A finetune is named by its id.", Exit.WRONG_USAGE)
    with opened(config_of(data_dir=data_dir), must_exist=True) as database:
        rows = database.read_blocking(
            refusals.list_newest, account, before_id=None, finetune_id=finetune_id, limit=limit
        )
    rows.reverse()
    if as_json:
        show_json({"refusals": [refusal_item(row) for row in rows]})
        return
    for row in rows:
        typer.echo(_line(row))
    if not rows:
        tell("Nothing was refused.")


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
    from server.api.answers import usage_item
    from server.services.books import list_usage

    with opened(config_of(data_dir=data_dir), must_exist=True) as database:
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
        show_json({"usage": items})
    elif rows:
        head = [name for name in items[0] if not name.endswith(("_ms", "_id"))]
        names = [readable_time(row.start_at_ms) if by.is_time else row.name or "-" for row in rows]
        show_table(
            [by.value, *head],
            [
                [name, *(str(item[column]) for column in head)]
                for name, item in zip(names, items, strict=True)
            ],
        )
    else:
        tell("Nothing was used.")


def _line(row: Refusal) -> str:
    what = f"{row.status} {row.code}  {row.method} {row.path}"
    return f"{readable_time(row.at_ms)}  {what}  {row.message}  [{row.request_id}]"
