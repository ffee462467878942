"""The bodies of creation: of a finetune, and of one as an adapter, whose names are freer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StrictStr
from pydantic_core import PydanticCustomError

from contract.engine import RANKS
from contract.ids import CheckpointName, NumberedCheckpoint
from server.api.schemas.fields import Integer
from server.domain import rules
from server.domain.body import Body
from server.services.origins import Origin


def _check_name(name: str) -> str:
    if not rules.is_finetune_name(name):
        raise PydanticCustomError(
            "finetune_name",
            "A name has 1-128 characters of A-Z a-z 0-9 . _ -; for instance '{proposal}'",
            {"proposal": rules.propose_finetune_name(name)},
        )
    return name


def _check_adapter_name(name: str) -> str:
    if not rules.is_adapter_name(name):
        raise ValueError("A name has 1-128 printable characters; spaces are allowed")
    return name


def _check_rank(rank: int) -> int:
    if rank not in RANKS:
        raise PydanticCustomError("rank", "The rank should be 8, 16, 24 or 32")
    return rank


def _parse_origin(text: str) -> Origin | None:
    return CheckpointName.parse(text) or NumberedCheckpoint.parse(text)


def _check_origin(text: str | None) -> str | None:
    if text is not None and _parse_origin(text) is None:
        raise ValueError(
            "Name a saved checkpoint as finetune_id@step or as adapter_id/chk_001, or leave the"
            " field out"
        )
    return text


class CreateFinetuneBody(Body):
    name: Annotated[StrictStr, AfterValidator(_check_name)]
    rank: Annotated[Integer, AfterValidator(_check_rank)]
    from_checkpoint: Annotated[StrictStr | None, AfterValidator(_check_origin)] = None

    @property
    def origin(self) -> Origin | None:
        """The saved checkpoint to start from."""
        return None if self.from_checkpoint is None else _parse_origin(self.from_checkpoint)


class CreateAdapterBody(CreateFinetuneBody):
    name: Annotated[StrictStr, AfterValidator(_check_adapter_name)]
