"""The types of fields: strict numbers, coordinates, texts; what they accept and how they refuse.

Strings never pass as numbers; booleans pass as rewards only; integral floats pass as integers.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    StrictBool,
    StrictStr,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from server.domain import rules
from server.domain.body import Number

T = TypeVar("T")

_MAX_INTEGER = 2**63 - 1


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError("not a whole number")
    return int(value)


class _IntegerSchema:
    """64-bit integers; integral floats too. One core schema, for lists of thousands of tokens."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.union_schema(
            [
                core_schema.int_schema(strict=True, ge=-_MAX_INTEGER, le=_MAX_INTEGER),
                core_schema.no_info_after_validator_function(
                    _whole,
                    core_schema.float_schema(
                        strict=True, allow_inf_nan=False, ge=-(2.0**53), le=2.0**53
                    ),
                ),
            ],
            mode="left_to_right",
            custom_error_type="int_type",
        )


class _RewardSchema:
    """Finite numbers; `true` and `false` count as 1 and 0."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.union_schema(
            [
                core_schema.float_schema(strict=True, allow_inf_nan=False),
                core_schema.no_info_after_validator_function(
                    float, core_schema.bool_schema(strict=True)
                ),
            ],
            mode="left_to_right",
            custom_error_type="float_type",
        )


def _strip(value: str) -> str:
    stripped = value.strip()
    if not stripped:
        raise PydanticCustomError("string_too_short", "Should not be empty")
    return stripped


def count(value: object) -> int:
    """How many things a list or an object has; none if it is neither."""
    return len(cast("list[Any] | dict[str, Any]", value)) if isinstance(value, list | dict) else 0


def _check_length(value: Any) -> Any:
    length = count(value)
    if length > rules.MAX_EXAMPLES:
        raise PydanticCustomError(
            "too_long",
            "A list of {length} was sent; no step takes more than {most}",
            {"length": length, "most": rules.MAX_EXAMPLES},
        )
    return value


Items = Annotated[list[T], Field(fail_fast=True)]
"""A list of any length; only its first wrong item is told, since each costs about a kilobyte."""

Examples = Annotated[Items[T], BeforeValidator(_check_length)]
"""A list of what a step has a limited number of, refused unread if it has far more."""

Integer = Annotated[int, _IntegerSchema()]
Reward = Annotated[float, _RewardSchema()]
Flag = StrictBool
Text = StrictStr
Words = Annotated[StrictStr, AfterValidator(_strip)]
"""A text that is stripped and must not be empty then."""
Coordinate = Annotated[Number, AfterValidator(rules.clamp_coordinate)]
