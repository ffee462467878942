"""`moontune status`: the server of a data directory, or of an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from server.cli.calling import Url, caller_of
from server.cli.manners import AsJson, DataDir, Exit, config_of, refuse, show_json
from server.running import CallError
from server.words import readable_bytes

if TYPE_CHECKING:
    from server.state import ServerState


def status(data_dir: DataDir = None, url: Url = None, as_json: AsJson = False) -> None:
    """Show how a running server is; ends with 0 only while it is ready for calls."""
    from server.state import look_at

    config = config_of(data_dir=data_dir)
    try:
        server = caller_of(config, url)
    except CallError as error:
        if as_json:
            show_json({"url": None, "is_up": False, "is_ready": False, "detail": str(error)})
        refuse(str(error))
    state = look_at(config, server)
    if as_json:
        show_json(state.as_json())
    else:
        for name, value in _facts(state):
            typer.echo(f"{name:<12} {value}")
    raise typer.Exit(Exit.DONE if state.is_ready else Exit.REFUSED)


def _facts(state: ServerState) -> list[tuple[str, str]]:
    holder = state.holder
    place = f", process {holder.pid} on {holder.host} since {holder.started_at}" if holder else ""
    ready = "yes" if state.is_ready else f"NO: {state.detail}"
    facts = [("server", f"{state.url}{place}"), ("ready", ready)]
    if state.model is not None:
        facts.append(("model", state.model))
    if state.num_worker_starts is not None:
        ended = state.num_worker_starts - 1
        facts.append(("worker", "never ended" if ended < 1 else f"replaced {ended} times"))
    for name, counts in (("waiting", state.waiting), ("running", state.running)):
        if counts is not None:
            told = ", ".join(f"{number} {name}" for name, number in counts.items())
            facts.append((name, told or "nothing"))
    sizes = [("API", state.api_bytes), ("worker", state.worker_bytes)]
    if any(size is not None for _, size in sizes):
        told = (f"{name} {readable_bytes(size)}" for name, size in sizes if size is not None)
        facts.append(("memory", ", ".join(told)))
    if state.free_bytes is not None:
        facts.append(("disk", f"{readable_bytes(state.free_bytes)} free"))
    if state.num_finetunes is not None:
        facts.append(("finetunes", str(state.num_finetunes)))
    return [*facts, *(("note", note) for note in state.notes)]
