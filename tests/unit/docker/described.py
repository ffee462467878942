"""What commands, options and routes there are, for tests of what names them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import typer
import typer.main

from server import openapi_document
from server.cli import app

WrongUsage = typer.BadParameter.__base__
"""typer's own copy of click has it, and does not show it."""


@functools.cache
def routes() -> frozenset[str]:
    """The addresses of the service."""
    return frozenset(json.loads(openapi_document.text())["paths"])


def complaint(words: Sequence[str]) -> str | None:
    """What is wrong with a call of moontune, going by its words; None when nothing is."""
    command, words = typer.main.get_command(app), list(words)
    while isinstance(command, typer.core.TyperGroup):
        name = words.pop(0) if words else ""
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = command.commands[name]
    try:
        command.make_context(command.name, words)
    except WrongUsage as error:
        return str(error)
    return None
