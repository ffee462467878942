"""The server that a verb talks to: that of the data directory, or the one that `--url` names."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from server.cli.manners import config_of, refuse
from server.config import ServerConfig
from server.running import Caller, CallError, find_url

Url = Annotated[
    str | None,
    typer.Option(help="Address of the server; absent: the one that runs on the data directory."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def caller_of(config: ServerConfig, url: str | None) -> Caller:
    """Calls to the server of a configuration, with the key of MOONTUNE_API_KEY.

    Raises:
        CallError: No server is found.
    """
    key = None if config.api_key is None else config.api_key.get_secret_value()
    return Caller(url or find_url(config), key=key)


@contextmanager
def calling(data_dir: Path | None, url: str | None) -> Generator[Caller]:
    """Talk to a server; what it refuses ends the process with its sentence and 1."""
    config = config_of(data_dir=data_dir)
    try:
        yield caller_of(config, url)
    except CallError as error:
        refuse(str(error))


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before what cannot be undone; without a terminal `--yes` is needed."""
    if not is_sure:
        typer.confirm(question, abort=True, err=True)
