"""`moontune finetunes list|show|delete`, through the HTTP API of a server that runs."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from server.cli.calling import Url, Yes, calling, confirm
from server.cli.manners import AsJson, DataDir, show_json, show_table
from server.cli.times import readable_time

FINETUNES = "/v1/tuning/finetunes"

app = typer.Typer(help="See and remove the finetunes of a running server.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="FINETUNE_ID, as `list` shows it.")]


@app.command("list")
def list_finetunes(data_dir: DataDir = None, url: Url = None, as_json: AsJson = False) -> None:
    """Show all finetunes, oldest first."""
    with calling(data_dir, url) as server:
        found = list(server.pages(FINETUNES, "finetunes"))
    if as_json:
        show_json({"finetunes": found})
        return
    rows = [
        [
            finetune["finetune_id"],
            str(finetune["rank"]),
            readable_time(finetune["updated_at_ms"]),
            finetune["name"],
        ]
        for finetune in found
    ]
    show_table(["finetune", "rank", "changed", "name"], rows)


@app.command()
def show(
    finetune_id: Id, data_dir: DataDir = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show one finetune: its step, its base model and the steps that are saved."""
    path = f"{FINETUNES}/{quote(finetune_id, safe='')}"
    with calling(data_dir, url) as server:
        finetune: dict[str, Any] = server.call(path)["finetune"]
        saved = [item["step"] for item in server.pages(f"{path}/checkpoints", "checkpoints")]
    if as_json:
        show_json({**finetune, "saved_steps": saved})
        return
    facts = [
        ("finetune", finetune["finetune_id"]),
        ("name", finetune["name"]),
        ("rank", finetune["rank"]),
        ("step", finetune["step"]),
        ("saved steps", ", ".join(map(str, saved)) or "none"),
        ("base model", finetune["base_model"] or "none yet"),
        *([("origin", finetune["origin"])] if "origin" in finetune else []),
        ("created", readable_time(finetune["created_at_ms"])),
        ("changed", readable_time(finetune["updated_at_ms"])),
    ]
    for name, value in facts:
        typer.echo(f"{name:<12} {value}")


@app.command()
def delete(
    finetune_id: Id,
    yes: Yes = False,
    data_dir: DataDir = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete a finetune with all its checkpoints; it cannot be brought back."""
    path = f"{FINETUNES}/{quote(finetune_id, safe='')}"
    with calling(data_dir, url) as server:
        finetune = server.call(path)["finetune"]
        confirm(
            f"Delete finetune '{finetune['name']}' at step {finetune['step']}, with its"
            " checkpoints?",
            is_sure=yes,
        )
        server.call(path, method="DELETE")
    if as_json:
        show_json({"deleted": finetune["finetune_id"]})
    else:
        typer.echo(f"Finetune '{finetune['name']}' ({finetune['finetune_id']}) is deleted.")
