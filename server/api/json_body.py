"""From raw bytes to a typed body: read within the limit, parsed whatever Content-Type says.

Parsing happens in threads, so that a large body never blocks the event loop; at most two large ones
at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import anyio
import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from server.api.schemas.skills import UNION_TAG
from server.domain.body import Body
from server.domain.errors import (
    BodyTooLargeError,
    FieldFault,
    InvalidJsonError,
    Loc,
    UnknownSkillError,
    ValidationFailedError,
)

B = TypeVar("B", bound=Body)

LARGE_BODY_BYTES = 8 << 20
MAX_LARGE_BODIES_AT_ONCE = 2
MAX_IGNORED_FIELDS = 20
_MAX_NAME_LENGTH = 64
_MAX_FAULTS = 20
_MAX_LOC_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class Parsed(Generic[B]):
    """A body: typed, as the plain JSON it was, and the fingerprint of its bytes."""

    value: B
    tree: dict[str, Any]
    fingerprint: bytes
    ignored_fields: list[str]


class BodyParser:
    """Parses bodies; one per application, since its threads are limited."""

    def __init__(self) -> None:
        self._small = anyio.CapacityLimiter(8)
        self._large = anyio.CapacityLimiter(MAX_LARGE_BODIES_AT_ONCE)

    async def parse(self, request: Request, model: type[B], *, max_bytes: int) -> Parsed[B]:
        """Read and parse the body of a request, and note the fields that are ignored.

        Raises:
            BodyTooLargeError: It has more than `max_bytes`.
            InvalidJsonError: It is not JSON, or not an object.
            ValidationFailedError: A field is wrong.
        """
        raw = await _read(request, max_bytes)
        limiter = self._large if len(raw) > LARGE_BODY_BYTES else self._small
        parsed = await anyio.to_thread.run_sync(_parse, raw, model, limiter=limiter)
        request.state.ignored_fields = parsed.ignored_fields
        return parsed


async def _read(request: Request, max_bytes: int) -> bytearray:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    raw = bytearray()
    async for chunk in cast("AsyncIterator[bytes]", request.stream()):
        raw += chunk
        if len(raw) > max_bytes:
            raise _too_large(max_bytes)
    return raw


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {max_bytes} bytes; send less at once.")


def _parse(raw: bytearray, model: type[B]) -> Parsed[B]:
    fingerprint = hashlib.sha256(raw).digest()
    try:
        tree = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJsonError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise InvalidJsonError("The body should be a JSON object.")
    # Numbers such as 1e999 are read as infinity; NUL cannot be stored.
    may_have_nul = b"\\u0000" in raw
    raw.clear()
    fault = next(_faults(tree, ("body",), may_have_nul), None)
    if fault is not None:
        raise ValidationFailedError(fault.message, faults=[fault])
    try:
        value = model.model_validate(tree)
    except ValidationError as error:
        raise validation_failed(error) from None
    return Parsed(
        value=value,
        tree=cast("dict[str, Any]", tree),
        fingerprint=fingerprint,
        ignored_fields=ignored_fields(value),
    )


def _faults(value: Any, loc: Loc, may_have_nul: bool) -> Iterator[FieldFault]:
    """Find what no typed field would see: opaque parts hold anything."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield FieldFault(loc=loc, type="finite_number", message="Should be a finite number")
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if may_have_nul and "\0" in key:
                yield FieldFault(loc=loc, type="nul", message="A name holds the character NUL")
            if isinstance(item, (dict, list, float, str)):
                yield from _faults(item, (*loc, _short(key)), may_have_nul)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            if isinstance(item, (dict, list, float, str)):
                yield from _faults(item, (*loc, index), may_have_nul)
    elif may_have_nul and isinstance(value, str) and "\0" in value:
        yield FieldFault(loc=loc, type="nul", message="Holds the character NUL")


def validation_failed(error: ValidationError) -> ValidationFailedError:
    """Return the refusal that a pydantic error becomes; nothing of the input is in it."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    faults = [
        FieldFault(
            loc=("body", *(_short(part) for part in item["loc"] if not _is_union_tag(part))),
            type=item["type"],
            message=_sentence(item),
        )
        for item in details[:_MAX_FAULTS]
    ]
    first = faults[0]
    where = ".".join(str(part) for part in first.loc[1:])
    message = f"{where}: {first.message}" if where else first.message
    kind = UnknownSkillError if first.type == "unknown_skill" else ValidationFailedError
    return kind(f"{message[:280]}.", faults=faults)


def _sentence(item: ErrorDetails) -> str:
    """What is wrong; of an object's class, whose name pydantic would tell, callers know nothing."""
    if item["type"] == "model_type":
        return "Should be an object"
    return item["msg"].removeprefix("Value error, ")


def _short(part: str | int) -> str | int:
    """Part of a location; names come from the caller and may have megabytes."""
    return part[:_MAX_LOC_LENGTH] if isinstance(part, str) else part


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith(UNION_TAG)


def ignored_fields(body: BaseModel) -> list[str]:
    """Return the dotted names of fields that no model knows, at most 20, safe for a header."""
    names: list[str] = []
    for name in _unknown(body, ""):
        names.append(name)
        if len(names) == MAX_IGNORED_FIELDS:
            break
    return names


def _unknown(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in value.model_extra or ():
            yield prefix + quote(name[:_MAX_NAME_LENGTH], safe="/@:+")
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{prefix}{name}.")
    elif isinstance(value, list) and value and isinstance(value[0], (BaseModel, list)):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _unknown(item, f"{prefix}{index}.")
