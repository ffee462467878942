"""How finetunes, checkpoints, metrics, usage and refusals look in answers, in both forms."""

from __future__ import annotations

from typing import Any

from contract.ids import NumberedCheckpoint
from contract.skills import Skill
from server.db.models import Checkpoint, Finetune, Metric, Refusal
from server.db.usage import UsageSum
from server.domain.clock import utc_text
from server.domain.usage import By


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


def adapter_item(finetune: Finetune) -> dict[str, Any]:
    """A finetune as an adapter, in the list and alone."""
    return {
        "adapter_id": finetune.id,
        "name": finetune.name,
        "rank": finetune.rank,
        "created_at": utc_text(finetune.created_at_ms),
    }


def numbered_checkpoint_item(checkpoint: Checkpoint) -> dict[str, Any]:
    """A saved checkpoint by its number."""
    name = NumberedCheckpoint(finetune_id=checkpoint.finetune_id, number=checkpoint.number)
    return {"checkpoint_id": str(name), "created_at": utc_text(checkpoint.created_at_ms)}


def in_boxes(rollout: dict[str, Any]) -> dict[str, Any]:
    """A rollout whose detected objects are called boxes; others as they are."""
    if rollout["skill"] != Skill.DETECT:
        return rollout
    return {**rollout, "output": {"boxes": rollout["output"]["objects"]}}


def metric_item(metric: Metric) -> dict[str, Any]:
    """One number."""
    return {
        "step": metric.step,
        "name": metric.name,
        "value": metric.value,
        "logged_at_ms": metric.logged_at_ms,
    }


def usage_item(row: UsageSum, by: By) -> dict[str, Any]:
    """What was used; an entry of no finetune, or of no key, leaves the id out."""
    item: dict[str, Any] = {"start_at_ms": row.start_at_ms}
    if row.name:
        item["key_id" if by is By.KEY else "finetune_id"] = row.name
    used = row.usage
    return {
        **item,
        "requests": used.requests,
        "images": used.images,
        "prompt_tokens": used.prompt_tokens,
        "generated_tokens": used.generated_tokens,
        "training_tokens": used.training_tokens,
        "steps": used.steps,
        "compute_seconds": used.compute_ms / 1000,
        "stored_bytes": row.stored_bytes,
    }


def refusal_item(refusal: Refusal) -> dict[str, Any]:
    """A call that was refused; the finetune is left out where none was named."""
    item: dict[str, Any] = {
        "at_ms": refusal.at_ms,
        "request_id": refusal.request_id,
        "method": refusal.method,
        "path": refusal.path,
        "status": refusal.status,
        "code": refusal.code,
        "message": refusal.message,
    }
    if refusal.finetune_id is not None:
        item["finetune_id"] = refusal.finetune_id
    return item
