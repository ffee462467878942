"""From raw bytes to a typed body: read within the limit, parsed whatever Content-Type says.

Parsing happens in threads, so that a large body never blocks the event loop; at most two large
ones at once. Pictures are cut out before (server/bodies/slices.py). What the rest takes of memory,
as JSON and as what is made of it, is estimated before it is parsed, and shared by all calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import anyio
import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from contract.ids import CheckpointName
from server.api.schemas.skills import UNION_TAG
from server.bodies.slices import Cut, find_cuts, without
from server.bodies.store import BodyStore
from server.bodies.stored import StoredBody
from server.budget import Budget
from server.domain.body import Body
from server.domain.errors import (
    BodyTooLargeError,
    FieldFault,
    InvalidJsonError,
    Loc,
    OverloadedError,
    UnknownSkillError,
    ValidationFailedError,
)

B = TypeVar("B", bound=Body)
T = TypeVar("T")

SMALL_BODY_BYTES = 64 << 10
"""Up to here the memory of what is parsed is not counted."""

LARGE_BODY_BYTES = 8 << 20
MAX_LARGE_BODIES_AT_ONCE = 2
MAX_IGNORED_FIELDS = 20
_MAX_NAME_LENGTH = 64
_MAX_FAULTS = 20
_MAX_LOC_LENGTH = 128


@dataclass(kw_only=True)
class Parsed(Generic[B]):
    """A body: typed, and as the plain JSON it was, with names of slices instead of pictures.

    Until `release`, which its call owes and which twice is once, `stored` has the bytes as they
    came.
    """

    value: B
    tree: dict[str, Any]
    stored: StoredBody
    ignored_fields: list[str]
    release: Callable[[], None]

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its bytes."""
        return self.stored.fingerprint

    async def ordered(self, order: Callable[[B], T]) -> T:
        """Return what is made of the value, which is given up with the JSON."""
        value = self.value
        del self.value, self.tree
        return await self._worked_on(value, order)

    async def made_of(self, order: Callable[[B], T]) -> T:
        """Return what is made of the value, which is kept with the JSON."""
        return await self._worked_on(self.value, order)

    async def _worked_on(self, value: B, order: Callable[[B], T]) -> T:
        """A large one is worked on in a thread."""
        if self.stored.num_bytes <= SMALL_BODY_BYTES:
            return order(value)
        return await anyio.to_thread.run_sync(order, value)


class BodyParser:
    """Parses bodies; one per application, since its threads and its memory are limited.

    Args:
        store: Where the bytes lie.
        memory: For what is parsed of all bodies, as long as their calls last.
    """

    def __init__(self, store: BodyStore, memory: Budget) -> None:
        self.memory = memory
        self._store = store
        self._small = anyio.CapacityLimiter(8)
        self._large = anyio.CapacityLimiter(MAX_LARGE_BODIES_AT_ONCE)

    async def parse(
        self, request: Request, model: type[B], *, max_bytes: int, within: float
    ) -> Parsed[B]:
        """Read and parse the body of a request, and note the fields that are ignored.

        Args:
            within: Seconds that it may wait, unread for room and unparsed for memory.

        Raises:
            BodyTooLargeError: It has more than `max_bytes`, or its JSON needs too much memory.
            InvalidJsonError: It is not JSON, or not an object.
            ValidationFailedError: A field is wrong.
            OverloadedError: There was no room for it in time.
        """
        stored = await receive_body(request, self._store, max_bytes=max_bytes, within=within)
        try:
            parsed = await self._parse(stored, model, within, request.scope["state"])
        except BaseException:
            stored.release()
            raise
        request.state.ignored_fields = parsed.ignored_fields
        return parsed

    async def _parse(
        self, stored: StoredBody, model: type[B], within: float, state: dict[str, Any]
    ) -> Parsed[B]:
        limiter = self._large if stored.num_bytes > LARGE_BODY_BYTES else self._small
        cuts = await anyio.to_thread.run_sync(find_cuts, stored, limiter=limiter)
        num_bytes = 0
        if stored.num_bytes > SMALL_BODY_BYTES:
            num_bytes = await anyio.to_thread.run_sync(
                estimated_json_bytes, stored, cuts, limiter=limiter
            )
            await self._take_memory(num_bytes, within, since=stored.received_at)
        try:
            value, tree, ignored = await anyio.to_thread.run_sync(
                _parse, stored, cuts, model, state, limiter=limiter
            )
        except BaseException:
            self.memory.give_back(num_bytes)
            raise

        is_released = False

        def release() -> None:
            nonlocal is_released
            if not is_released:
                is_released = True
                self.memory.give_back(num_bytes)
                stored.release()

        return Parsed(
            value=value,
            tree=tree,
            stored=stored,
            ignored_fields=ignored,
            release=release,
        )

    async def _take_memory(self, num_bytes: int, within: float, *, since: float) -> None:
        limit = self.memory.limit
        if num_bytes > limit:
            raise BodyTooLargeError(
                f"Without its pictures the body would take about {num_bytes} bytes of memory;"
                f" {limit} are there for all calls. Send less at once."
            )
        try:
            await self.memory.take(num_bytes, within=since + within - time.monotonic())
        except TimeoutError:
            raise OverloadedError(
                f"The body was not parsed for {within:g} s: those of other calls take"
                f" {self.memory.used} of {limit} bytes of memory, and {self.memory.num_waiting}"
                " more wait. Ask again later."
            ) from None


async def receive_body(
    request: Request, store: BodyStore, *, max_bytes: int, within: float
) -> StoredBody:
    """Read the body of a request to its end; raises as BodyStore.receive."""
    length = request.headers.get("content-length", "")
    return await store.receive(
        cast("AsyncIterator[bytes]", request.stream()),
        announced=int(length) if length.isdecimal() else None,
        max_bytes=max_bytes,
        within=within,
    )


def estimated_json_bytes(stored: StoredBody, cuts: list[Cut]) -> int:
    """What a body takes of memory at most, as text, JSON, typed fields and an order; no pictures.

    The weights were measured (docs/decisions/0012-bounded-memory.md).
    """
    num_bytes = num_values = num_objects = at = 0
    for start, stop in [*((cut.start, cut.stop) for cut in cuts), (stored.num_bytes,) * 2]:
        for block in stored.blocks(at, start):
            num_bytes += len(block)
            num_values += sum(_count(mark, block) for mark in (b",", b":", b"["))
            num_objects += _count(b"{", block)
        at = stop
    return 2 * num_bytes + 64 * num_values + 900 * num_objects


def _count(mark: bytes, block: bytes) -> int:
    """How often one character occurs; that it does not is found out in a fiftieth of the time."""
    return block.count(mark) if mark in block else 0


def _parse(
    stored: StoredBody, cuts: list[Cut], model: type[B], state: dict[str, Any]
) -> tuple[B, dict[str, Any], list[str]]:
    """The value of a body, its JSON, and the fields that are ignored; to be done in a thread.

    The state of the request gets the finetune that the body names, also if it is refused.
    """
    text = without(stored, cuts)
    try:
        tree = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJsonError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise InvalidJsonError("The body should be a JSON object.")
    state["finetune_id"] = _finetune_named(cast("dict[str, Any]", tree))
    # Numbers such as 1e999 are read as infinity; NUL cannot be stored.
    may_have_nul = b"\\" in text and b"\\u0000" in text
    del text
    fault = next(opaque_faults(tree, ("body",), may_have_nul), None)
    if fault is not None:
        raise ValidationFailedError(fault.message, faults=[fault])
    try:
        value = model.model_validate(tree)
    except ValidationError as error:
        raise validation_failed(error) from None
    return value, cast("dict[str, Any]", tree), ignored_fields(value)


def _finetune_named(tree: dict[str, Any]) -> str | None:
    for name in ("finetune_id", "adapter_id"):
        if isinstance(named := tree.get(name), str):
            return named
    saved = CheckpointName.parse(model) if isinstance(model := tree.get("model"), str) else None
    return saved and saved.finetune_id


def opaque_faults(value: Any, loc: Loc, may_have_nul: bool) -> Iterator[FieldFault]:
    """Find what no typed field would see: opaque parts hold anything."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield FieldFault(loc=loc, type="finite_number", message="Should be a finite number")
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if may_have_nul and "\0" in key:
                yield FieldFault(loc=loc, type="nul", message="A name holds the character NUL")
            if isinstance(item, (dict, list, float, str)):
                yield from opaque_faults(item, (*loc, _short(key)), may_have_nul)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            if isinstance(item, (dict, list, float, str)):
                yield from opaque_faults(item, (*loc, index), may_have_nul)
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
