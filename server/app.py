"""create_app: routers, error handlers, startup and shutdown; wiring only."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.middleware.cors import CORSMiddleware

from server.api import (
    accounts,
    adapters,
    batch,
    chat,
    checkpoints,
    docs,
    files,
    finetunes,
    health,
    inference,
    metrics,
    models,
    openapi,
    operations,
    problems,
    rollouts,
    train_step,
)
from server.api.auth import check_host
from server.api.json_body import BodyParser
from server.api.middleware import RequestContext
from server.api.schemas.batch import read_line
from server.config import ServerConfig
from server.db import migrate
from server.domain.seeds import SEED_BITS
from server.loop_lag import watch_loop
from server.prometheus import Exposition
from server.services.container import Services, build_services
from server.services.dispatch import SupervisedEngine
from server.services.images import ImageDecoder
from server.services.observation import ALL_METRICS

ROUTERS = (
    finetunes.router,
    rollouts.router,
    train_step.router,
    checkpoints.router,
    adapters.router,
    files.router,
    metrics.router,
    inference.router,
    batch.router,
    chat.router,
    models.router,
    accounts.router,
    health.router,
    operations.router,
    docs.router,
)


def create_app(
    config: ServerConfig, *, engine: SupervisedEngine, image_decoder: ImageDecoder
) -> FastAPI:
    """Build the application; the database must have been upgraded (server.db.migrate).

    Its lifespan starts and stops the engine. `app.state.services.dispatcher.drain()` may be called
    at any time before the end to refuse what waits and let what runs finish.
    """
    services = build_services(
        config,
        engine=engine,
        decoder=image_decoder,
        read_line=functools.partial(read_line, max_generation_tokens=config.max_generation_tokens),
        root_seed=secrets.randbits(SEED_BITS) if config.seed is None else config.seed,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        await _start(services)
        watching = asyncio.create_task(watch_loop(services.meters))
        try:
            yield
        finally:
            watching.cancel()
            await close_services(services)

    async def guard_host(request: Request) -> None:
        await check_host(request, services)

    app = FastAPI(
        title=openapi.TITLE,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(guard_host)],
        redirect_slashes=False,
        openapi_url=None,  # server.api.docs, which needs nothing from elsewhere
    )
    app.state.services = services
    app.state.body_parser = BodyParser(services.admission.bodies, services.admission.json_memory)
    app.state.exposition = Exposition(ALL_METRICS, services.observation.stats)
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app, ROUTERS)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "X-Moondream-Auth",
                "X-Request-Id",
            ],
            expose_headers=[
                "Idempotent-Replayed",
                "Retry-After",
                "X-Ignored-Fields",
                "X-Next-Cursor",
                "X-Request-Id",
            ],
        )
    app.add_middleware(  # added last, so it is the outermost
        RequestContext,
        max_drain_bytes=config.max_drain_bytes,
        max_drain_seconds=config.max_drain_seconds,
        meters=services.meters,
        books=services.books,
    )
    return app


async def _start(services: Services) -> None:
    await asyncio.to_thread(migrate.require_current, services.database)
    await asyncio.to_thread(services.admission.bodies.sweep)
    await services.keys.open()
    services.books.start()
    await services.ledger.open()
    await services.cleanup.sweep_all()
    await services.batches.cleanup.start()
    await services.engine.start()
    services.batches.runner.start()


async def close_services(services: Services) -> None:
    """Let what runs come to its end, as long as the grace lasts, and close everything; twice is
    once."""
    services.batches.runner.give_up()
    await services.dispatcher.close(grace_seconds=services.config.shutdown_grace_seconds)
    await services.batches.runner.stop()
    await services.engine.stop()
    await services.training.close()
    await services.downloads.close()
    await services.cleanup.close()
    await services.batches.cleanup.close()
    await services.keys.close()
    await services.books.close()
    services.database.close()
