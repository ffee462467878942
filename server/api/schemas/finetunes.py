"""The body of finetune creation."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StrictStr
from pydantic_core import PydanticCustomError

from contract.engine import RANKS
from contract.ids import CheckpointName
from server.api.schemas.fields import Integer
from server.domain import rules
from server.domain.body import Body


def _check_name(name: str) -> str:
    if not rules.is_finetune_name(name):
        raise PydanticCustomError(
            "finetune_name",
            "A name has 1-128 characters of A-Z a-z 0-9 . _ -; for instance '{proposal}'",
            {"proposal": rules.propose_finetune_name(name)},
        )
    return name


def _check_rank(rank: int) -> int:
    if rank not in RANKS:
        raise PydanticCustomError("rank", "The rank should be 8, 16, 24 or 32")
    return rank


def _check_origin(origin: str | None) -> str | None:
    if origin is not None and CheckpointName.parse(origin) is None:
        raise ValueError("Name a saved checkpoint as finetune_id@step, or leave the field out")
    return origin


class CreateFinetuneBody(Body):
    name: Annotated[StrictStr, AfterValidator(_check_name)]
    rank: Annotated[Integer, AfterValidator(_check_rank)]
    from_checkpoint: Annotated[StrictStr | None, AfterValidator(_check_origin)] = None

    @property
    def origin(self) -> CheckpointName | None:
        """The saved checkpoint to start from."""
        return None if self.from_checkpoint is None else CheckpointName.parse(self.from_checkpoint)
