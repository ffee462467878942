"""`moontune export` and `moontune import` on the command line."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from contract.ids import CheckpointName
from server.cli.manners import OTHERS_SEE_NOTHING, AsJson, DataDir, config_of, refuse, show_json
from server.domain.caller import DEFAULT_ACCOUNT

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
    as_json: AsJson = False,
) -> None:
    """Write a saved checkpoint for use elsewhere, and measure that it computes the same."""
    from server.travel import TravelError, export_checkpoint

    config = config_of(data_dir=data_dir, model=model, device=device, dtype=dtype)
    try:
        manifest = export_checkpoint(config, checkpoint, to=to, out=out)
    except TravelError as error:
        refuse(str(error))
    if as_json:
        show_json({"out": str(out), "manifest": manifest})
        return
    typer.echo(f"Written to {out}. {_told(manifest['agreement'])}")


def import_(
    source: Annotated[Path, typer.Argument(help="An exchange file or a PEFT directory.")],
    name: Annotated[str, typer.Option(help="Of the new finetune.")],
    account: Annotated[str, typer.Option(help="Whose it is to be.")] = DEFAULT_ACCOUNT,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Although it names another base model.")
    ] = False,
    data_dir: DataDir = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Make a finetune of an adapter from elsewhere; a server may run meanwhile."""
    from server.travel import TravelError, import_adapter

    os.umask(OTHERS_SEE_NOTHING)
    config = config_of(data_dir=data_dir, model=model, device=device, dtype=dtype)
    try:
        arrived = import_adapter(config, source, name=name, account_id=account, any_base=any_base)
    except TravelError as error:
        refuse(str(error))
    if as_json:
        show_json(asdict(arrived))
        return
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
