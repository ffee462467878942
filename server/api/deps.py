"""What a route may ask for: the caller, the services, the body, the caller's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.responses import Response, StreamingResponse

from contract.work import WorkClass
from server.api.auth import authenticate
from server.api.json_body import BodyParser, Parsed
from server.bodies.slices import Slice, with_slices
from server.bodies.stored import StoredBody
from server.config import ServerConfig
from server.domain.body import Body
from server.domain.json_text import LONG_TEXT_CHARACTERS, to_json, to_json_parts
from server.services.container import Services

B = TypeVar("B", bound=Body)

SENT_AT_ONCE_BYTES = 1 << 20
"""Larger answers are read from where they lie while they are sent."""


def services_of(request: Request) -> Services:
    """The services of this process."""
    return request.app.state.services


ServicesDep = Annotated[Services, Depends(services_of)]


def config_of(services: ServicesDep) -> ServerConfig:
    """The configuration of this process."""
    return services.config


ConfigDep = Annotated[ServerConfig, Depends(config_of)]


async def caller(request: Request, services: ServicesDep) -> str:
    """The account that calls, once it may."""
    return (await authenticate(request, services)).account_id


Account = Annotated[str, Depends(caller)]


def body_of(
    model: type[B], *, work_class: WorkClass | None = None
) -> Callable[..., AsyncIterator[Parsed[B]]]:
    """Make the dependency that reads a body, and keeps it until the answer was sent.

    It asks for the caller first. The class of work says how long the body may be and may wait.
    """

    async def read_body(
        request: Request, _account: Account, config: ConfigDep
    ) -> AsyncIterator[Parsed[B]]:
        parser: BodyParser = request.app.state.body_parser
        is_step = work_class is WorkClass.TRAINING
        parsed = await parser.parse(
            request,
            model,
            max_bytes=config.max_train_body_bytes if is_step else config.max_body_bytes,
            within=config.queue_seconds(work_class),
        )
        try:
            yield parsed
        finally:
            parsed.release()

    return read_body


async def caller_leaving(request: Request) -> AsyncIterator[asyncio.Future[None]]:
    """A future that completes when the caller closes the connection; read the body first."""
    left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not left.done():
            left.set_result(None)

    watching = asyncio.create_task(watch())
    try:
        yield left
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


CallerLeft = Annotated[asyncio.Future[None], Depends(caller_leaving)]


def json_answer(value: Any) -> Response:
    """An answer of 200 with a JSON object."""
    return Response(to_json(value), media_type="application/json")


async def answer_with_body(value: Any, body: Parsed[Any]) -> Response:
    """The same with what a body held, whose pictures go from where they lie to the caller."""
    parts = await asyncio.to_thread(_parts, body.stored, value)
    num_bytes = sum(p.stop - p.start if isinstance(p, Slice) else len(p) for p in parts)
    blocks = _blocks(body.stored, parts)
    if num_bytes <= SENT_AT_ONCE_BYTES:
        return Response(b"".join(blocks), media_type="application/json")
    return StreamingResponse(
        blocks,
        media_type="application/json",
        headers={"Content-Length": str(num_bytes)},
    )


def _parts(stored: StoredBody, value: Any) -> list[bytes | Slice]:
    """The JSON of an answer, with slices of the body in the place of its pictures."""
    is_small = stored.num_bytes <= LONG_TEXT_CHARACTERS
    texts = [to_json(value)] if is_small else to_json_parts(value)
    return [part for text in texts for part in with_slices(stored, text)]


def _blocks(stored: StoredBody, parts: list[bytes | Slice]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, Slice):
            yield from stored.blocks(part.start, part.stop)
        else:
            yield part
