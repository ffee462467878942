"""Where the files of a model are: a directory, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from trainer.loading import LoadError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")


def find_model(model: str) -> Path:
    """Return the local directory of a model, fetched from the hub if it names a repository.

    Raises:
        LoadError: There is no such directory, or the hub cannot give it.
    """
    directory = Path(model)
    if directory.is_dir():
        return directory
    if not _REPOSITORY.fullmatch(model):
        raise LoadError(
            f"--model {model} is neither a directory nor a hub repository such as "
            "moondream/moondream3-preview."
        )
    try:
        return Path(snapshot_download(model, allow_patterns=list(_FILES)))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoadError(f"{model} could not be fetched from the hub: {reason}") from error
