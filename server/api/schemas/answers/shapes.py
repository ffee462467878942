"""What answers are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonValue

Unit = Annotated[float, Field(ge=0, le=1)]
Bin = Annotated[int, Field(ge=0, le=1023)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[int, Field(ge=0, description="Since 1970, in milliseconds.")]

ULID = "01JZ3V6T8Q5W1N2X4C7B9M0KHD"
WHEN = 1736937000000


def like(example: dict[str, Any], extra: Literal["forbid", "allow"] = "forbid") -> ConfigDict:
    """The configuration of a shape that has an example."""
    return ConfigDict(extra=extra, json_schema_extra={"examples": [cast("JsonValue", example)]})


class Answer(BaseModel):
    """What all answers, and the objects in them, are."""


class Shape(Answer):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Page(Shape):
    """The end of every list."""

    next_cursor: str | None
    has_more: bool


class Done(Shape):
    model_config = like({"ok": True})

    ok: Literal[True]


class Nothing(Shape):
    model_config = like({})


def answer_examples(kind: type[Answer] = Answer) -> Iterator[tuple[str, Any]]:
    """The name and the example of every shape that has one."""
    for shape in kind.__subclasses__():
        extra = shape.model_config.get("json_schema_extra")
        if isinstance(extra, dict):
            yield shape.__name__, cast("dict[str, Any]", extra)["examples"][0]
        yield from answer_examples(shape)
