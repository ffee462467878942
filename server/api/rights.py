"""Which key may make which call: every route by the pattern of its address.

A route that is missing here is for full keys only, and a test fails.
"""

from __future__ import annotations

from enum import Enum

from fastapi import Request

from server.domain.caller import Scope
from server.domain.errors import ForbiddenError


class Right(Enum):
    """What a route asks of its caller; those of keys name the scopes that have it."""

    PUBLIC = "no key at all"
    OPERATOR = "this machine, or a full key"
    READ = (Scope.FULL, Scope.READ)
    LOOK = (Scope.FULL, Scope.READ, Scope.INFERENCE)
    ANSWER = (Scope.FULL, Scope.INFERENCE)
    CHANGE = (Scope.FULL,)


TUNING = "/v1/tuning"
FINETUNE = f"{TUNING}/finetunes/{{finetune_id}}"
ADAPTER = f"{TUNING}/adapters/{{adapter_id}}"

RIGHTS: dict[tuple[str, str], Right] = {
    ("GET", "/healthz"): Right.PUBLIC,
    ("GET", "/readyz"): Right.PUBLIC,
    ("GET", "/v1/files/{token}"): Right.PUBLIC,
    ("GET", "/metrics"): Right.OPERATOR,
    ("GET", f"{TUNING}/finetunes"): Right.READ,
    ("GET", FINETUNE): Right.READ,
    ("GET", f"{FINETUNE}/metrics"): Right.READ,
    ("GET", f"{FINETUNE}/checkpoints"): Right.READ,
    ("GET", f"{FINETUNE}/checkpoints/{{step}}/download"): Right.READ,
    ("GET", f"{TUNING}/usage"): Right.READ,
    ("GET", f"{TUNING}/refusals"): Right.READ,
    ("POST", "/v1/query"): Right.ANSWER,
    ("POST", "/v1/caption"): Right.ANSWER,
    ("POST", "/v1/point"): Right.ANSWER,
    ("POST", "/v1/detect"): Right.ANSWER,
    ("POST", "/v1/segment"): Right.ANSWER,
    ("POST", "/v1/chat/completions"): Right.ANSWER,
    ("GET", "/v1/models"): Right.LOOK,
    ("GET", "/v1/models/{model_id}"): Right.LOOK,
    ("GET", "/v1/batch"): Right.LOOK,
    ("GET", "/v1/batch/{file_id}"): Right.LOOK,
    ("POST", "/v1/batch"): Right.ANSWER,
    ("PUT", "/v1/batch/{file_id}"): Right.ANSWER,
    ("POST", "/v1/batch/{file_id}"): Right.ANSWER,
    ("DELETE", "/v1/batch/{file_id}"): Right.ANSWER,
    ("GET", f"{TUNING}/adapters"): Right.READ,
    ("GET", ADAPTER): Right.READ,
    ("GET", f"{ADAPTER}/checkpoints"): Right.READ,
    ("POST", f"{TUNING}/adapters"): Right.CHANGE,
    ("DELETE", ADAPTER): Right.CHANGE,
    ("POST", f"{ADAPTER}/checkpoint"): Right.CHANGE,
    ("DELETE", f"{ADAPTER}/checkpoints/{{checkpoint_id}}"): Right.CHANGE,
    ("POST", f"{TUNING}/finetunes"): Right.CHANGE,
    ("DELETE", FINETUNE): Right.CHANGE,
    ("POST", f"{TUNING}/rollouts"): Right.CHANGE,
    ("POST", f"{TUNING}/train_step"): Right.CHANGE,
    ("POST", f"{FINETUNE}/metrics"): Right.CHANGE,
    ("POST", f"{FINETUNE}/checkpoints/save"): Right.CHANGE,
    ("DELETE", f"{FINETUNE}/checkpoints/{{step}}"): Right.CHANGE,
}


def check_right(request: Request, scope: Scope) -> None:
    """Refuse a call that this scope may not make.

    Raises:
        ForbiddenError: Another scope is needed; no later try will help.
    """
    if scope is Scope.FULL:
        return
    path: str = getattr(request.scope.get("route"), "path_format", "")
    right = RIGHTS.get((request.method, path), Right.CHANGE)
    if not isinstance(right.value, tuple) or scope not in right.value:
        raise ForbiddenError(
            f"This key has the scope '{scope.value}', which does not cover this call; use one with"
            " the scope 'full', or ask who runs the server for it."
        )
