"""`moontune serve` and `moontune demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from server.cli.manners import AsJson, Exit, refuse
from server.config import ServerConfig, describe_faults, load_config


def help_of(name: str) -> str | None:
    """What the configuration says of an option, which is where it is documented."""
    return ServerConfig.model_fields[name].description


Model = Annotated[str | None, typer.Option(help=help_of("model"))]
DataDir = Annotated[Path | None, typer.Option(help=help_of("data_dir"))]
Host = Annotated[str | None, typer.Option(help=help_of("host"))]
Port = Annotated[int | None, typer.Option(help=help_of("port"))]
Device = Annotated[str | None, typer.Option(help=help_of("device"))]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"] | None, typer.Option(help=help_of("dtype"))
]


def serve(
    model: Model = None,
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    device: Device = None,
    dtype: Dtype = None,
    seed: Annotated[int | None, typer.Option(help=help_of("seed"))] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one JSON object, for programs.")
    ] = False,
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
        refuse(describe_faults(error), Exit.WRONG_USAGE)
    from server.ready import banner, ready_json
    from server.serving import serve as run_server

    raise typer.Exit(run_server(config, announce=ready_json if as_json else banner))


def demo(
    data_dir: Annotated[
        Path, typer.Option(help="Where the demo keeps its finetunes; it may exist already.")
    ] = Path("moontune-demo"),
    port: Annotated[int, typer.Option(help="Port of its server; 0 takes a free one.")] = 0,
    steps: Annotated[int, typer.Option(help="Train steps; fewer may learn too little.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Teach the bundled tiny model a new shape, start to end, on the CPU."""
    from server.demo import DemoError, run_demo

    try:
        status = run_demo(data_dir=data_dir, port=port, steps=steps, as_json=as_json)
    except DemoError as error:
        refuse(str(error))
    raise typer.Exit(status)
