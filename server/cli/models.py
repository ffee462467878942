"""`moontune model pull|list|inspect`: the trainer does it, in this process's place.

It knows models, we do not; so it gets our terminal, Ctrl-C included, and its exit status is ours.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from server.children import module_command, module_environment
from server.cli.manners import AsJson, config_of, refuse

NEEDED_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub")

app = typer.Typer(help="Get models, and see what this machine can run.", no_args_is_help=True)


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(help="Such as moondream/moondream3-preview.")],
    revision: Annotated[
        str | None,
        typer.Option(help="Commit, branch or tag; absent: as before, else the pinned or newest."),
    ] = None,
    fp8: Annotated[
        bool | None,
        typer.Option(help="Of a repository with both, take the smaller fp8 weights."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model here from the Hugging Face hub; again after an interruption to go on."""
    options = [] if revision is None else ["--revision", revision]
    if fp8 is not None:
        options.append("--fp8" if fp8 else "--no-fp8")
    _become_trainer("pull", *_models_dir(), *options, *_json(as_json), "--", repository)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Show known and pulled models, and which of them this machine can run."""
    _become_trainer("list", *_models_dir(), *_json(as_json))


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="A checkpoint's folder.")],
    rank: Annotated[int, typer.Option(help="Of the adapter to train, for the memory.")] = 32,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is and how much memory it needs, without loading it."""
    _become_trainer("inspect", "--rank", str(rank), *_json(as_json), "--", str(directory))


def _models_dir() -> list[str]:
    return ["--models-dir", str(config_of().models_dir)]


def _json(as_json: bool) -> list[str]:
    return ["--json"] if as_json else []


def _become_trainer(*arguments: str) -> NoReturn:
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        refuse(
            f"This needs the trainer's packages, and {', '.join(missing)} cannot be found:"
            " pip install 'moontune[trainer]'."
        )
    command = module_command("trainer", *arguments)
    os.execve(command[0], command, module_environment())
