"""`moontune config show|check`: every option, its value, and where the value comes from."""

from __future__ import annotations

import os
from typing import Any

import typer
from pydantic import SecretStr

from server.cli.manners import AsJson, Exit, refuse, show_json, show_table
from server.config import ENV_PREFIX, ServerConfig, describe_faults, load_config
from server.masks import MASK, mask_url

app = typer.Typer(help="See the configuration, and whether it is right.", no_args_is_help=True)


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show the value of each option and where it comes from; secrets are masked."""
    config = _load()
    given = {name.upper() for name in os.environ}
    rows: list[dict[str, Any]] = []
    for name in ServerConfig.model_fields:
        variable = ENV_PREFIX + name.upper()
        origin = "environment" if variable in given else "default"
        rows.append({"name": variable, "value": readable(config, name), "origin": origin})
    if as_json:
        show_json({"options": rows})
        return
    table = [[row["name"], row["origin"], row["value"]] for row in rows]
    show_table(["option", "from", "value"], table)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Say whether the configuration is right; names that are no options are told with the nearest.

    Ends with 0 when it is, else with 1.
    """
    try:
        load_config()
    except ValueError as error:
        if as_json:
            show_json({"is_right": False, "detail": describe_faults(error)})
        refuse(describe_faults(error), Exit.REFUSED)
    if as_json:
        show_json({"is_right": True, "detail": ""})
    else:
        typer.echo("The configuration is right.")


def readable(config: ServerConfig, name: str) -> str:
    """The value of an option as it would be written, with secrets masked."""
    value: Any = getattr(config, name)
    if value is None or value == ():
        return "none"
    if isinstance(value, SecretStr):
        return MASK
    if name == "database_url":
        return mask_url(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, bool):
        return str(value).lower()
    if name == "train_options":
        return value.model_dump_json(exclude_unset=True)
    return str(value)


def _load() -> ServerConfig:
    try:
        return load_config()
    except ValueError as error:
        refuse(describe_faults(error), Exit.WRONG_USAGE)
