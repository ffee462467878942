"""The folder of pulled models, and the record that makes one of them complete.

    <models>/<owner>/<name>/config.json, weights, tokenizer.json
                            moontune.json       what was pulled; written last
                            pull.json           what is being pulled; removed at the end

Nothing here reaches the network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.catalog.licences import Licence
from trainer.loading import RECORD_FILE, LoadError
from trainer.model.tokenizer import TOKENIZER_FILE

PLAN_FILE = "pull.json"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A checkpoint directory and the tokenizer file that belongs to it."""

    directory: Path
    tokenizer: Path


@dataclass(frozen=True, kw_only=True)
class PulledFile:
    """A file of a pulled model; `sha256` is hex, over its content as it lies here."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a pulled model is and where it is from.

    Attributes:
        revision: The commit of the repository.
        pulled_at: When it was complete, ISO 8601 in UTC.
    """

    repository: str
    revision: str
    licence: Licence
    files: Sequence[PulledFile]
    tokenizer_repository: str
    tokenizer_revision: str
    pulled_at: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pull that has begun is about, so that it goes on with the same commit."""

    repository: str
    revision: str
    is_fp8: bool


def is_repository(model: str) -> bool:
    """Whether it is spelled like `owner/name`."""
    return _REPOSITORY.fullmatch(model) is not None


class ModelStore:
    """Pulled models by repository."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()

    def directory(self, repository: str) -> Path:
        """Where a repository's files lie or will lie."""
        return self.root / repository

    def record(self, repository: str) -> Record | None:
        """What was pulled; None when nothing was, or not to the end.

        Raises:
            LoadError: The record cannot be read.
        """
        return read_record(self.directory(repository))

    def plan(self, repository: str) -> Plan | None:
        """The pull that has begun and not ended."""
        found = _read_json(self.directory(repository) / PLAN_FILE)
        return None if found is None else Plan(**found)

    def repositories(self) -> list[str]:
        """Everything that was pulled, or begun."""
        found = [*self.root.glob(f"*/*/{RECORD_FILE}"), *self.root.glob(f"*/*/{PLAN_FILE}")]
        return sorted({path.parent.relative_to(self.root).as_posix() for path in found})

    def missing_files(self, record: Record) -> list[str]:
        """Files that the record names and that are not there in their size."""
        directory = self.directory(record.repository)
        return [file.name for file in record.files if _size(directory / file.name) != file.size]

    def write_plan(self, plan: Plan) -> None:
        """Begin: from here on the model counts as incomplete."""
        directory = self.directory(plan.repository)
        _write_json(directory / PLAN_FILE, asdict(plan))
        (directory / RECORD_FILE).unlink(missing_ok=True)

    def write_record(self, record: Record) -> None:
        """End: the model is complete."""
        directory = self.directory(record.repository)
        _write_json(directory / RECORD_FILE, asdict(record))
        (directory / PLAN_FILE).unlink(missing_ok=True)


def read_record(directory: Path) -> Record | None:
    """The record that lies in a model's folder, if one does.

    Raises:
        LoadError: It cannot be read.
    """
    found = _read_json(directory / RECORD_FILE)
    if found is None:
        return None
    try:
        licence = Licence(**found.pop("licence"))
        files = tuple(PulledFile(**file) for file in found.pop("files"))
        return Record(licence=licence, files=files, **found)
    except (KeyError, TypeError) as error:
        raise LoadError(_unreadable(directory / RECORD_FILE)) from error


def find_model(model: str, models_dir: Path) -> ModelFiles:
    """Find a model's files: in a directory, or among the pulled ones when named by repository.

    Raises:
        LoadError: There is no such directory, or the repository was not pulled, or not to the end.
    """
    directory = Path(model)
    if directory.is_dir():
        return ModelFiles(directory=directory, tokenizer=directory / TOKENIZER_FILE)
    if not is_repository(model):
        raise LoadError(
            f"--model {model} is neither a directory nor a hub repository such as "
            "moondream/moondream3-preview."
        )
    store = ModelStore(models_dir)
    record = store.record(model)
    if record is None:
        if store.plan(model) is not None:
            raise LoadError(
                f"The pull of {model} has not finished; run `moontune model pull {model}` again, it"
                " goes on where it stopped."
            )
        raise LoadError(
            f"{model} is not on this machine (looked in {store.root}); run `moontune model pull"
            f" {model}` first."
        )
    if missing := store.missing_files(record):
        raise LoadError(
            f"{store.directory(model)} lacks {', '.join(missing)} or holds it in another size; run"
            f" `moontune model pull {model}` again."
        )
    directory = store.directory(model)
    return ModelFiles(directory=directory, tokenizer=directory / TOKENIZER_FILE)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LoadError(_unreadable(path)) from error
    if not isinstance(found, dict):
        raise LoadError(_unreadable(path))
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is there as a whole or not at all, also after a power cut."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _unreadable(path: Path) -> str:
    return f"{path} cannot be read; remove it and run `moontune model pull` again."


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
