"""The command line: `moontune serve`, `demo`, `model`, `export`, `verify`, `backup`, ..."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from server import (
    account_commands,
    keys_commands,
    model_commands,
    safety_commands,
    travel_commands,
)
from server.config import ServerConfig, describe_faults, load_config
from server.demo import DemoError, run_demo
from server.serving import serve as run_server

WRONG_USAGE = 2

app = typer.Typer(
    help="Fine-tune Moondream on your own machine, with the official SDK unchanged.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(model_commands.app, name="model")
app.add_typer(keys_commands.app, name="keys")

app.command("export")(travel_commands.export)
app.command("import")(travel_commands.import_)
app.command()(safety_commands.verify)
app.command()(safety_commands.backup)
app.command()(safety_commands.restore)
app.command()(account_commands.errors)
app.command()(account_commands.usage)


def _help(name: str) -> str | None:
    """What the configuration says of an option, which is where it is documented."""
    return ServerConfig.model_fields[name].description


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


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help=_help("model"))] = None,
    data_dir: Annotated[Path | None, typer.Option(help=_help("data_dir"))] = None,
    host: Annotated[str | None, typer.Option(help=_help("host"))] = None,
    port: Annotated[int | None, typer.Option(help=_help("port"))] = None,
    device: Annotated[str | None, typer.Option(help=_help("device"))] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, typer.Option(help=_help("dtype"))
    ] = None,
    seed: Annotated[int | None, typer.Option(help=_help("seed"))] = None,
) -> None:
    """Serve until stopped.

    Every option, and more, is also an environment variable: MOONTUNE_MODEL, MOONTUNE_DATA_DIR, ...
    """
    options: dict[str, Any] = {
        "model": model,
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "device": device,
        "dtype": dtype,
        "seed": seed,
    }
    try:
        config = load_config(**{name: v for name, v in options.items() if v is not None})
    except ValueError as error:
        _fail(describe_faults(error), WRONG_USAGE)
    raise typer.Exit(run_server(config))


@app.command()
def demo(
    data_dir: Annotated[
        Path, typer.Option(help="Where the demo keeps its finetunes; it may exist already.")
    ] = Path("moontune-demo"),
    port: Annotated[int, typer.Option(help="Port of its server; 0 takes a free one.")] = 0,
    steps: Annotated[int, typer.Option(help="Train steps; fewer may learn too little.")] = 40,
) -> None:
    """Teach the bundled tiny model a new shape, start to end, on the CPU."""
    try:
        status = run_demo(data_dir=data_dir, port=port, steps=steps)
    except DemoError as error:
        _fail(str(error), 1)
    raise typer.Exit(status)


def main() -> None:
    """Run the command line of this process."""
    app()


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(f"moontune: {sentence}", err=True)
    raise typer.Exit(status)
