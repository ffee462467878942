"""The command line: `moontune serve`, `demo`, `doctor`, `status`, `model`, `export`, ...

One file a group of verbs, each registered here with one line. What takes long to import is imported
by the verb that needs it, so that `--help` and completion answer at once.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from server.cli import (
    accounts,
    checkpoints,
    configuration,
    diagnosis,
    finetunes,
    keys,
    models,
    running,
    safety,
    serving,
    travel,
)

app = typer.Typer(
    help="Fine-tune Moondream on your own machine, with the official SDK unchanged.",
    epilog="Results go to stdout, progress and reasons to stderr. Exit status: 0 done, 1 refused or"
    " failed, 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(serving.serve)
app.command()(serving.demo)
app.command()(diagnosis.doctor)
app.command()(running.status)
app.add_typer(keys.app, name="keys")
app.add_typer(finetunes.app, name="finetunes")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(models.app, name="model")
app.command("export")(travel.export)
app.command("import")(travel.import_)
app.command()(accounts.errors)
app.command()(accounts.usage)
app.command()(safety.backup)
app.command()(safety.restore)
app.command()(safety.verify)
app.add_typer(configuration.app, name="config")
# A group of verbs of its own file: one line here, and one in tests/unit/server/test_cli.py.


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"moontune {version('moontune')}")
        raise typer.Exit


@app.callback()
def moontune(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and end."),
    ] = False,
) -> None:
    """Hold what is common to all commands."""


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="moontune")
