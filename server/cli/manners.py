"""How every verb behaves: where it writes, how it ends, and where its configuration comes from.

Results go to stdout, for people or with `--json` as one JSON object for programs. Progress and the
reason of a refusal go to stderr, so that a pipe gets results alone.
"""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from server.config import ServerConfig, describe_faults, load_config

OTHERS_SEE_NOTHING = 0o077
"""The mask of what a verb makes: prompts, keys and weights."""


class Exit(IntEnum):
    """How a verb ends."""

    DONE = 0
    REFUSED = 1
    """Refused or failed, with one sentence on stderr; or what was looked at is not well."""
    WRONG_USAGE = 2
    """An option, an argument or the configuration is wrong."""
    INTERRUPTED = 130


DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def config_of(**options: Any) -> ServerConfig:
    """Return the configuration of a verb that listens nowhere, so that no address is checked.

    Options that are None were not given: the environment decides, then the default. Ends the
    process with 2 where the configuration is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return load_config(**{"host": "127.0.0.1", **given})
    except ValueError as error:
        refuse(describe_faults(error), Exit.WRONG_USAGE)


def refuse(sentence: str, status: Exit = Exit.REFUSED) -> NoReturn:
    """End with a reason; an empty one was told already, by the trainer."""
    if sentence:
        tell(sentence)
    raise typer.Exit(status)


def tell(sentence: str) -> None:
    """Say something that is no result."""
    typer.echo(f"moontune: {sentence}", err=True)


def show_json(result: dict[str, Any]) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(result, indent=1))


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines with aligned columns; the last one may be of any width."""
    every = [head, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(head) - 1)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in every]


def show_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a result for people."""
    for line in table(head, rows):
        typer.echo(line)
