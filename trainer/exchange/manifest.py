"""The manifest: what was exported, of what, and how well it agreed; JSON beside the files.

    {"moontune": "0.1.0", "kind": "peft", "created_at": "2026-11-21T15:00:00+00:00",
     "finetune_id": "01H...", "step": 40, "rank": 8,
     "base_model": {"name": "moondream3-preview", "digest": "<sha256>", "dtype": "bfloat16"},
     "files": {"adapter_model.safetensors": "<sha256>", ...},
     "agreement": {"num_cases": 5, "max_difference": 2e-7, "max_effect": 0.8, ...},
     "largest_logits": [{"index": [...], "logit": [...]}, ...]}

A file that is exported alone is known by its digest, whatever it is called later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contract.engine import ModelInfo
from trainer.exchange.agreement import Agreement
from trainer.exchange.errors import ExchangeError
from trainer.loading import EXPORT_FILE

SIDECAR_SUFFIX = ".export.json"
_NEEDED = ("files", "base_model", "largest_logits")


def make_manifest(
    *,
    kind: str,
    finetune_id: str,
    step: int,
    rank: int,
    model: ModelInfo,
    files: Iterable[Path],
    agreement: Agreement,
    largest_logits: list[dict[str, Any]],
) -> dict[str, Any]:
    """The manifest of files that were just written."""
    return {
        "moontune": _release(),
        "kind": kind,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "finetune_id": finetune_id,
        "step": step,
        "rank": rank,
        "base_model": {"name": model.name, "digest": model.digest, "dtype": model.dtype},
        "files": {path.name: file_digest(path) for path in files},
        "agreement": dataclasses.asdict(agreement),
        "largest_logits": largest_logits,
    }


def write_manifest(exported: Path, manifest: Mapping[str, Any]) -> None:
    """Write it into an exported directory, or beside an exported file."""
    manifest_path(exported).write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(exported: Path, weights_file: Path) -> dict[str, Any] | None:
    """The manifest that belongs to a file or directory, if there is one.

    Args:
        weights_file: What the manifest has to vouch for: the file itself, or one of the directory.

    Raises:
        ExchangeError: It is none, or the files are not those that it was written for.
    """
    path = manifest_path(exported)
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text())
        files: dict[str, str] = dict(manifest["files"])
        if not all(key in manifest for key in _NEEDED):
            raise ValueError("it lacks what a manifest says")
        if not {"digest", "dtype"} <= manifest["base_model"].keys():
            raise ValueError("it lacks what a manifest says of the base model")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExchangeError(
            f"{path} is no manifest of an export; remove it to import without."
        ) from error
    if file_digest(weights_file) not in files.values():
        raise ExchangeError(
            f"{weights_file.name} is not what {path} was written for; it changed since the export."
        )
    if exported.is_dir():
        missing = sorted(name for name in files if not (exported / name).is_file())
        if missing:
            raise ExchangeError(f"{exported} lacks {', '.join(missing)}, which {path.name} names.")
        changed = [name for name, digest in files.items() if file_digest(exported / name) != digest]
        if changed:
            raise ExchangeError(f"{', '.join(changed)} changed since the export.")
    return manifest


def manifest_path(exported: Path) -> Path:
    """Where the manifest of a file or directory lies."""
    if exported.is_dir():
        return exported / EXPORT_FILE
    return exported.with_name(exported.name + SIDECAR_SUFFIX)


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _release() -> str:
    try:
        return version("moontune")
    except PackageNotFoundError:  # the bare sources on a GPU image
        return "unknown"
