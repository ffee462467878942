"""What makes something, on either surface: done once, by its natural key or by an explicit one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from server.api.json_body import Parsed
from server.api.resends import answer_once, keyed_call
from server.api.schemas.finetunes import CreateFinetuneBody
from server.db.models import Checkpoint, Finetune
from server.domain.json_text import to_json
from server.services.container import Services

B = TypeVar("B", bound=CreateFinetuneBody)


async def create_finetune(
    request: Request,
    account: str,
    body: Parsed[B],
    services: Services,
    *,
    path: str,
    show: Callable[[Finetune], object],
) -> Response:
    """Create a finetune, or take the one of that name and rank.

    Args:
        path: What an explicit key belongs to.
        show: The answer, as a plain value.
    """
    wish = body.value
    keyed = keyed_call(request, account, path, fingerprint=body.fingerprint.hex())

    def store(session: Session, finetune: Finetune) -> None:
        if keyed is not None:
            keyed.store(session, to_json(show(finetune)), finetune.id)

    async def make() -> bytes:
        finetune = await services.finetunes.create(
            account,
            name=wish.name,
            rank=wish.rank,
            origin=wish.origin,
            also=None if keyed is None else store,
        )
        return to_json(show(finetune))

    return await answer_once(services.keyed, keyed, make)


async def save_checkpoint(
    request: Request,
    account: str,
    finetune_id: str,
    services: Services,
    *,
    path: str,
    show: Callable[[Checkpoint], object],
) -> Response:
    """Save the newest step; a body is ignored. `path` and `show` as for `create_finetune`."""
    keyed = keyed_call(request, account, path)

    def store(session: Session, checkpoint: Checkpoint) -> None:
        if keyed is not None:
            keyed.store(session, to_json(show(checkpoint)), checkpoint.finetune_id)

    async def pin() -> bytes:
        also = None if keyed is None else store
        saved = await services.checkpoints.save(account, finetune_id, also=also)
        return to_json(show(saved))

    return await answer_once(services.keyed, keyed, pin)
