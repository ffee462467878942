"""`moontune export` and `moontune import` on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from contract.ids import CheckpointName
from server.config import ServerConfig, describe_faults, load_config
from server.serving import OTHERS_SEE_NOTHING
from server.travel import TravelError, export_checkpoint, import_adapter

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
Model = Annotated[
    str | None, typer.Option(help="The base model: `tiny`, a folder or a pulled repository.")
]
Device = Annotated[
    str | None, typer.Option(help="Where to compare; `cpu` beside a server that fills the GPU.")
]
Dtype = Annotated[Literal["auto", "float32", "bfloat16"] | None, typer.Option(help="Of the model.")]


def export(
    checkpoint: Annotated[str, typer.Argument(help="FINETUNE_ID@STEP, a saved checkpoint.")],
    out: Annotated[Path, typer.Argument(help="What to write; must not exist yet.")],
    to: Annotated[
        Literal["exchange", "peft", "merged"],
        typer.Option(help="One file for other readers, a PEFT directory, or a whole model."),
    ] = "exchange",
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Write a saved checkpoint for use elsewhere, and measure that it computes the same."""
    config = _config(data_dir=data_dir, model=model, device=device, dtype=dtype)
    try:
        manifest = export_checkpoint(config, checkpoint, to=to, out=out)
    except TravelError as error:
        _fail(str(error))
    typer.echo(f"Written to {out}. {_told(manifest['agreement'])}")


def import_(
    source: Annotated[Path, typer.Argument(help="An exchange file or a PEFT directory.")],
    name: Annotated[str, typer.Option(help="Of the new finetune.")],
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Although it names another base model.")
    ] = False,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make a finetune of an adapter from elsewhere; a server may run meanwhile."""
    os.umask(OTHERS_SEE_NOTHING)
    config = _config(data_dir=data_dir, model=model, device=device, dtype=dtype)
    try:
        arrived = import_adapter(config, source, name=name, any_base=any_base)
    except TravelError as error:
        _fail(str(error))
    typer.echo(
        f"Imported as finetune '{name}' of rank {arrived.rank}. {_told(arrived.agreement)}\n"
        f'  train it on   md.ft(finetune_id="{arrived.finetune_id}", ...)\n'
        f"  use it as     {CheckpointName(finetune_id=arrived.finetune_id, step=0)}"
    )


def _told(agreement: dict[str, Any]) -> str:
    return (
        f"Logits of {agreement['num_cases']} fixed questions differ by at most"
        f" {agreement['max_difference']:.2g} (allowed {agreement['threshold']:.2g}); the adapter"
        f" moves them by {agreement['max_effect']:.2g}."
    )


def _config(**options: Any) -> ServerConfig:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return load_config(host="127.0.0.1", **given)  # nothing listens: no address is checked
    except ValueError as error:
        _fail(describe_faults(error), status=2)


def _fail(sentence: str, *, status: int = 1) -> NoReturn:
    if sentence:  # else the trainer has said it
        typer.echo(f"moontune: {sentence}", err=True)
    raise typer.Exit(status)
