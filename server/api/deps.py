"""What a route may ask for: the caller, the services, the body, the caller's leaving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.responses import Response

from server.api.auth import account_of
from server.api.json_body import BodyParser, Parsed
from server.config import ServerConfig
from server.domain.body import Body
from server.domain.json_text import to_json
from server.services.container import Services

B = TypeVar("B", bound=Body)


def services_of(request: Request) -> Services:
    """The services of this process."""
    return request.app.state.services


ServicesDep = Annotated[Services, Depends(services_of)]


def config_of(services: ServicesDep) -> ServerConfig:
    """The configuration of this process."""
    return services.config


ConfigDep = Annotated[ServerConfig, Depends(config_of)]


def caller(request: Request, config: ConfigDep) -> str:
    """The account that calls."""
    return account_of(request, config)


Account = Annotated[str, Depends(caller)]


def body_of(model: type[B], *, is_train_step: bool = False) -> Callable[..., Awaitable[Parsed[B]]]:
    """Make the dependency that reads a body; it asks for the caller first."""

    async def read_body(request: Request, _account: Account, config: ConfigDep) -> Parsed[B]:
        parser: BodyParser = request.app.state.body_parser
        limit = config.max_train_body_bytes if is_train_step else config.max_body_bytes
        return await parser.parse(request, model, max_bytes=limit)

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


async def large_json_answer(value: Any) -> Response:
    """The same, written in a thread: it may hold a picture."""
    return Response(await asyncio.to_thread(to_json, value), media_type="application/json")
