"""The body of finetune creation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, StrictStr
from pydantic_core import PydanticCustomError

from server.api.schemas.fields import Body, Integer
from server.domain import rules


def _check_name(name: str) -> str:
    if not rules.is_finetune_name(name):
        raise PydanticCustomError(
            "finetune_name",
            "A name has 1-128 characters of A-Z a-z 0-9 . _ -; for instance '{proposal}'",
            {"proposal": rules.propose_finetune_name(name)},
        )
    return name


def _check_rank(rank: int) -> int:
    if rank not in rules.RANKS:
        raise PydanticCustomError("rank", "The rank should be 8, 16, 24 or 32")
    return rank


def _refuse_origin(origin: Any) -> None:
    if origin is not None:
        raise ValueError("Starting from a checkpoint is not supported yet; leave the field out")


class CreateFinetuneBody(Body):
    name: Annotated[StrictStr, AfterValidator(_check_name)]
    rank: Annotated[Integer, AfterValidator(_check_rank)]
    from_checkpoint: Annotated[Any, AfterValidator(_refuse_origin)] = None
