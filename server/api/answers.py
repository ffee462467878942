"""How finetunes, checkpoints and metrics look in answers."""

from __future__ import annotations

from typing import Any

from server.db.models import Checkpoint, Finetune, Metric


def finetune_item(finetune: Finetune) -> dict[str, Any]:
    """An entry of the list of finetunes."""
    return {
        "finetune_id": finetune.id,
        "name": finetune.name,
        "rank": finetune.rank,
        "created_at_ms": finetune.created_at_ms,
        "updated_at_ms": finetune.updated_at_ms,
    }


def finetune_details(finetune: Finetune) -> dict[str, Any]:
    """One finetune; `base_model` is null until a model was loaded, `origin` left out if fresh."""
    details = {
        **finetune_item(finetune),
        "step": finetune.step,
        "base_model": finetune.base_model_name,
    }
    if finetune.origin is not None:
        details["origin"] = finetune.origin
    return details


def checkpoint_item(checkpoint: Checkpoint) -> dict[str, Any]:
    """A saved checkpoint."""
    return {
        "checkpoint_id": checkpoint.id,
        "finetune_id": checkpoint.finetune_id,
        "step": checkpoint.step,
        "created_at_ms": checkpoint.created_at_ms,
        "updated_at_ms": checkpoint.updated_at_ms,
    }


def metric_item(metric: Metric) -> dict[str, Any]:
    """One number."""
    return {
        "step": metric.step,
        "name": metric.name,
        "value": metric.value,
        "logged_at_ms": metric.logged_at_ms,
    }
