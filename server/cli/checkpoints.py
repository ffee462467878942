"""`moontune checkpoints list|show|delete`, through the HTTP API of a server that runs."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from contract.ids import CheckpointName
from server.cli.calling import Url, Yes, calling, confirm
from server.cli.finetunes import FINETUNES, Id
from server.cli.manners import AsJson, DataDir, Exit, refuse, show_json, show_table
from server.cli.times import readable_time
from server.running import Caller

app = typer.Typer(help="See and remove saved steps of a running server.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="FINETUNE_ID@STEP", help="A saved step.")]


@app.command("list")
def list_checkpoints(
    finetune_id: Id, data_dir: DataDir = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show the saved steps of a finetune, ascending."""
    with calling(data_dir, url) as server:
        found = list(server.pages(_path(finetune_id), "checkpoints"))
    if as_json:
        show_json({"checkpoints": found})
        return
    rows = [
        [f"{item['finetune_id']}@{item['step']}", readable_time(item["created_at_ms"])]
        for item in found
    ]
    show_table(["checkpoint", "saved"], rows)


@app.command()
def show(
    checkpoint: Name, data_dir: DataDir = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show one saved step, and what to use it as."""
    name = _parse(checkpoint)
    with calling(data_dir, url) as server:
        found = _find(server, name)
    if as_json:
        show_json({**found, "model": str(name)})
        return
    typer.echo(f"{'saved':<12} {readable_time(found['created_at_ms'])}")
    typer.echo(f"{'use it as':<12} {name}")
    typer.echo(f"{'take it away':<12} moontune export {name.finetune_id}@{name.step} out --to peft")


@app.command()
def delete(
    checkpoint: Name,
    yes: Yes = False,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete a saved step; training is not touched."""
    name = _parse(checkpoint)
    with calling(data_dir, url) as server:
        _find(server, name)
        confirm(f"Delete step {name.step} of {name.finetune_id}?", is_sure=yes)
        server.call(f"{_path(name.finetune_id)}/{name.step}", method="DELETE")
    if as_json:
        show_json({"deleted": f"{name.finetune_id}@{name.step}"})
    else:
        typer.echo(f"Step {name.step} of {name.finetune_id} is deleted.")


def _parse(text: str) -> CheckpointName:
    name = CheckpointName.parse(text)
    if name is None:
        refuse(f"{text} names no saved step; write FINETUNE_ID@STEP.", Exit.WRONG_USAGE)
    return name


def _find(server: Caller, name: CheckpointName) -> dict[str, Any]:
    """Look for it in the list, which is what the API has."""
    found = list(server.pages(_path(name.finetune_id), "checkpoints"))
    for item in found:
        if item["step"] == name.step:
            return item
    saved = ", ".join(str(item["step"]) for item in found) or "none"
    refuse(f"Step {name.step} of {name.finetune_id} is not saved; saved are: {saved}.")


def _path(finetune_id: str) -> str:
    return f"{FINETUNES}/{quote(finetune_id, safe='')}/checkpoints"
