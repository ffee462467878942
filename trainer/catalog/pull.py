"""From a repository of the hub to a complete model in the store; read `pull` top to bottom.

Nothing of a repository is run: no Python file is fetched, and only names that are listed here.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.catalog.hub import (
    PARTIAL_SUFFIX,
    Hub,
    HubFile,
    Listing,
    partial_path,
    sha256_of,
)
from trainer.catalog.known import TOKENIZER_REPOSITORY, TOKENIZER_REVISION, known_model
from trainer.catalog.licences import stated_licence
from trainer.catalog.store import ModelStore, Plan, PulledFile, Record, is_repository
from trainer.device_memory import readable_bytes
from trainer.model.checkpoint import CONFIG_FILE
from trainer.model.published_config import FAMILY_OF_MODEL_TYPE
from trainer.model.tokenizer import TOKENIZER_FILE
from trainer.model.weight_files import INDEX_FILE, WEIGHTS_FILE

NEWEST = "main"
_WEIGHT_PATTERNS = ("*.safetensors", INDEX_FILE, "*.pt", f"*{PARTIAL_SUFFIX}")


class PullError(Exception):
    """The model cannot be pulled; the message is a sentence for people."""


def pull(
    repository: str,
    *,
    hub: Hub,
    store: ModelStore,
    say: Callable[[str], None],
    revision: str | None = None,
    is_fp8: bool | None = None,
) -> Record:
    """Bring a model here, or finish a pull that was interrupted.

    Args:
        repository: `owner/name`.
        say: Tells a person what happens, a line at a time.
        revision: A commit, branch or tag. None: that of the record or of the unfinished pull, then
            the pinned one, then the newest.
        is_fp8: Whether to take the fp8 weights of a repository that has both. None: as before,
            else no.

    Returns:
        The record that makes the model complete.

    Raises:
        PullError: It is no Moondream, or it does not fit the disk.
        HubError: The hub does not give it.
        LoadError: The store's record cannot be read.
        OSError: The disk refuses.
    """
    if not is_repository(repository):
        raise PullError(f"{repository} is no repository; one looks like vikhyatk/moondream2.")
    fp8_file = _fp8_file(repository, is_fp8, store)
    record = store.record(repository)
    if record and _is_the_one(record, revision, fp8_file) and not store.missing_files(record):
        say(f"{repository} is here already, revision {record.revision}.")
        return record

    listing = hub.list_repository(repository, revision or _usual_revision(repository, store))
    known = known_model(repository)
    licence = known.licence if known else stated_licence(listing.licence)
    say(f"{repository}, revision {listing.commit}")
    say(f"Licence: {licence.name}: {licence.meaning}")

    tokenizer = hub.list_repository(TOKENIZER_REPOSITORY, TOKENIZER_REVISION)
    wanted = [(listing, file) for file in _wanted_files(hub, listing, fp8_file)]
    wanted += [(tokenizer, _file(tokenizer, TOKENIZER_FILE))]
    directory = store.directory(repository)
    _check_disk(directory, [file for _, file in wanted])
    num_bytes = readable_bytes(sum(file.size for _, file in wanted))
    say(f"{len(wanted)} files, {num_bytes}, to {directory}")

    plan = Plan(repository=repository, revision=listing.commit, is_fp8=fp8_file is not None)
    with _alone(directory):
        store.write_plan(plan)
        pulled = []
        for source, file in wanted:
            path = hub.fetch(source, file, directory)
            digest = file.sha256 or sha256_of(path)
            pulled.append(PulledFile(name=file.name, size=file.size, sha256=digest))
        _remove_others(directory, {file.name for file in pulled}, say)
        record = Record(
            repository=repository,
            revision=listing.commit,
            licence=licence,
            files=tuple(pulled),
            tokenizer_repository=TOKENIZER_REPOSITORY,
            tokenizer_revision=tokenizer.commit,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        store.write_record(record)
    return record


def require_pullable(repository: str, *, hub: Hub) -> None:
    """See whether a model that is not here could be pulled; brings nothing but its configuration.

    Raises:
        PullError: It is no Moondream.
        HubError: There is no such repository, its terms are not accepted, or no hub is reached.
    """
    known = known_model(repository)
    listing = hub.list_repository(repository, (known.revision if known else None) or NEWEST)
    _content(hub, listing, _file(listing, CONFIG_FILE))


def _fp8_file(repository: str, is_fp8: bool | None, store: ModelStore) -> str | None:
    """The name of the fp8 weights, where those are to be taken."""
    known = known_model(repository)
    name = known.fp8_file if known else None
    if is_fp8 is None and name is not None:
        plan, record = store.plan(repository), store.record(repository)
        if plan is not None:
            is_fp8 = plan.is_fp8
        elif record is not None:
            is_fp8 = any(file.name == name for file in record.files)
    if not is_fp8:
        return None
    if name is None:
        raise PullError(f"{repository} has no second set of weights in fp8; pull it without --fp8.")
    return name


def _is_the_one(record: Record, revision: str | None, fp8_file: str | None) -> bool:
    """Whether what is here is what is asked for; a branch or tag has to be looked up."""
    is_fp8 = any(file.name.endswith(".pt") for file in record.files)
    return revision in (None, record.revision) and is_fp8 == (fp8_file is not None)


def _usual_revision(repository: str, store: ModelStore) -> str:
    begun = store.plan(repository) or store.record(repository)
    known = known_model(repository)
    return (begun.revision if begun else None) or (known.revision if known else None) or NEWEST


def _wanted_files(hub: Hub, listing: Listing, fp8_file: str | None) -> list[HubFile]:
    """The configuration and one set of weights, as `weight_files` will find them."""
    config = _file(listing, CONFIG_FILE)
    model_type = _content(hub, listing, config).get("model_type")
    if model_type is not None and model_type not in FAMILY_OF_MODEL_TYPE:
        raise PullError(
            f"{listing.repository} is no Moondream: its {CONFIG_FILE} says {model_type!r}."
        )
    if fp8_file is not None:
        return [config, _file(listing, fp8_file)]
    index = listing.file(INDEX_FILE)
    if index is not None:
        try:
            shards = sorted(set(_content(hub, listing, index)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise PullError(f"{INDEX_FILE} of {listing.repository} is no index.") from error
        return [config, index, *(_file(listing, shard) for shard in shards)]
    weights = listing.file(WEIGHTS_FILE)
    others = [file for file in listing.files if file.name.endswith(".safetensors")]
    if weights is not None:
        return [config, weights]
    if len(others) != 1:
        names = ", ".join(file.name for file in others) or "none"
        raise PullError(
            f"{listing.repository} has neither {WEIGHTS_FILE} nor {INDEX_FILE}, and not one other"
            f" .safetensors file ({names}): it is not clear what to pull."
        )
    return [config, *others]


def _file(listing: Listing, name: str) -> HubFile:
    file = listing.file(name)
    if file is None:
        raise PullError(f"{listing.repository} at {listing.commit[:12]} holds no {name}.")
    return file


def _content(hub: Hub, listing: Listing, file: HubFile) -> dict[str, Any]:
    """Read a small JSON file before anything is changed here."""
    with tempfile.TemporaryDirectory() as directory:
        text = hub.fetch(listing, file, Path(directory)).read_text(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise PullError(f"{file.name} of {listing.repository} is no JSON object.")
    return content


def _check_disk(directory: Path, files: Sequence[HubFile]) -> None:
    there = sum(
        path.stat().st_size
        for file in files
        for path in (partial_path(file, directory), directory / file.name)
        if path.is_file()
    )
    needed = sum(file.size for file in files) - there
    exists = next(path for path in (directory, *directory.parents) if path.is_dir())
    free = shutil.disk_usage(exists).free
    if needed > free:
        raise PullError(
            f"The pull needs {readable_bytes(needed)}, but the disk of {exists} has"
            f" {readable_bytes(free)} free; make room, or set MOONTUNE_MODELS_DIR to a folder"
            " elsewhere."
        )


@contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Make a model's folder and own it until the block ends, whatever way it ends.

    Raises:
        PullError: Another pull has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PullError(f"Another pull is filling {directory}; wait for it.") from None
        yield
    finally:
        os.close(descriptor)


def _remove_others(directory: Path, wanted: set[str], say: Callable[[str], None]) -> None:
    """Drop weights of another revision, which would stand in the way of loading."""
    for pattern in _WEIGHT_PATTERNS:
        for path in sorted(directory.glob(pattern)):
            if path.name not in wanted:
                path.unlink()
                if path.suffix != PARTIAL_SUFFIX:
                    say(f"Removed {path.name}, which is no part of what was pulled.")
