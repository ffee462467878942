"""Bodies that name a finetune by either word: `finetune_id`, or `adapter_id` of December 2025."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StrictStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from contract.ids import parse_ulid
from server.domain.body import Body


class AddressedBody(Body):
    """Has one of the two, or both and equal; whoever sends `adapter_id` speaks the older form.

    A null is an absent field.
    """

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["finetune_id"]}, {"required": ["adapter_id"]}]}
    )

    adapter_id: StrictStr | None = None
    finetune_id: Annotated[StrictStr | None, Field(validate_default=True)] = None

    @field_validator("finetune_id")
    @classmethod
    def _check_ids(cls, finetune_id: str | None, info: ValidationInfo) -> str | None:
        if "adapter_id" not in info.data:  # it was refused
            return finetune_id
        written: tuple[str | None, ...] = (finetune_id, info.data["adapter_id"])
        named = {parse_ulid(text) or text for text in written if text is not None}
        if not named:
            raise PydanticCustomError("missing", "Field required: finetune_id or adapter_id")
        if len(named) > 1:
            raise PydanticCustomError(
                "value_error",
                "finetune_id and adapter_id are two words for one thing and differ here; send one",
            )
        return finetune_id

    @property
    def is_adapters_form(self) -> bool:
        """Whether the answer has the shape of December 2025."""
        return self.adapter_id is not None

    @property
    def addressed_id(self) -> str:
        """The finetune that is meant, as it was written."""
        written = self.finetune_id if self.adapter_id is None else self.adapter_id
        assert written is not None, "bodies without either are refused"
        return written
