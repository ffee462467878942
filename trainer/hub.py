"""Where the files of a model are: a directory, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from trainer.loading import LoadError
from trainer.model.tokenizer import TOKENIZER_FILE

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")

TOKENIZER_REPOSITORY = "moondream/starmie-v1"
"""All published models share it; the file in the Moondream 2 repository is a stale one."""
TOKENIZER_REVISION = "35192e10a54e36eabe0a7cc57a2c1aab371cafc5"


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A checkpoint directory and the tokenizer file that belongs to it."""

    directory: Path
    tokenizer: Path


def find_model(model: str) -> ModelFiles:
    """Find a model's files, fetching them from the hub when it is named by repository.

    Raises:
        LoadError: There is no such directory, or the hub cannot give it.
    """
    directory = Path(model)
    if directory.is_dir():
        return ModelFiles(directory=directory, tokenizer=directory / TOKENIZER_FILE)
    if not _REPOSITORY.fullmatch(model):
        raise LoadError(
            f"--model {model} is neither a directory nor a hub repository such as "
            "moondream/moondream3-preview."
        )
    try:
        return ModelFiles(
            directory=Path(snapshot_download(model, allow_patterns=list(_FILES))),
            tokenizer=Path(
                hf_hub_download(TOKENIZER_REPOSITORY, TOKENIZER_FILE, revision=TOKENIZER_REVISION)
            ),
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LoadError(f"{model} could not be fetched from the hub: {reason}") from error
