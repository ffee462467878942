"""The manifest of a saved checkpoint: what its weights are, in words that outlive the database."""

from __future__ import annotations

import json
from typing import Any

from contract.engine import FileRef
from server.db.models import Checkpoint, Finetune
from server.release import release_name

FORMAT = 1


def manifest_of(
    finetune: Finetune, weights: FileRef | None, *, parent_step: int | None, at_ms: int
) -> str:
    """Describe the step that a finetune is at, as JSON.

    Args:
        weights: Its file, as rows keep it; None while the adapter is the fresh one of its seed.
        parent_step: The step of this finetune that was saved before it.
    """
    parent = None if parent_step is None else f"{finetune.id}@{parent_step}"
    facts: dict[str, Any] = {
        "format": FORMAT,
        "finetune_id": finetune.id,
        "name": finetune.name,
        "step": finetune.step,
        "rank": finetune.rank,
        "adapter_seed": finetune.adapter_seed,
        "base_model": {"name": finetune.base_model_name, "digest": finetune.base_model_digest},
        "parent": parent or finetune.origin,
        "origin": finetune.origin,
        "files": [] if weights is None else [_file("weights", weights)],
        "saved_at_ms": at_ms,
        "release": release_name(),
    }
    return json.dumps(facts)


def faults_of(checkpoint: Checkpoint) -> list[str]:
    """Say where a manifest and its row disagree; nothing for a row without a manifest."""
    if checkpoint.manifest is None:
        return []
    try:
        facts: Any = json.loads(checkpoint.manifest)
        files = {file["role"]: file for file in facts["files"]}
        said = (facts["finetune_id"], facts["step"], files.get("weights"))
    except (ValueError, KeyError, TypeError):
        return ["the manifest cannot be read"]
    weights = checkpoint.weights and _file("weights", checkpoint.weights)
    wanted = (checkpoint.finetune_id, checkpoint.step, weights)
    names = ("finetune_id", "step", "weights")
    return [
        f"the manifest says {name} {is_said!r}, the row {is_wanted!r}"
        for name, is_said, is_wanted in zip(names, said, wanted, strict=True)
        if is_said != is_wanted
    ]


def _file(role: str, file: FileRef) -> dict[str, Any]:
    return {"role": role, "path": file.path, "sha256": file.digest, "num_bytes": file.num_bytes}
