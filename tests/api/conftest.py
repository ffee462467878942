"""The real app on a database of its own, with a fake engine."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.config import ServerConfig
from server.db import migrate
from tests import compiled, postgres
from tests.described import Described, hook
from tests.fakes import FakeEngine, FakeImageDecoder
from tests.service import Service

Serve = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once and copied."""
    folder = tmp_path_factory.mktemp("template")
    migrate.upgrade(ServerConfig(data_dir=folder))
    return folder / "moontune.db"


@pytest.fixture
def database_url(tmp_path: Path, database_kind: str, empty_database: Path) -> str | None:
    """The URL of a migrated database of this test's own; None: the file in its data directory."""
    if database_kind == "postgresql":
        return postgres.fresh()
    shutil.copy(empty_database, tmp_path / "moontune.db")
    return None


@pytest.fixture
def data_dir(tmp_path: Path, database_url: str | None) -> Path:
    return tmp_path


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    """The document that every answer of these tests is held against."""
    config = ServerConfig(data_dir=tmp_path_factory.mktemp("described"))
    app = create_app(config, engine=FakeEngine(), image_decoder=FakeImageDecoder())
    return Described(app.openapi())


@pytest.fixture
def serve(data_dir: Path, database_url: str | None, described: Described) -> Serve:
    """Start the app on this test's data directory; more than once is a restart."""

    @asynccontextmanager
    async def run(engine: FakeEngine | None = None, **options: Any) -> AsyncIterator[Service]:
        config = ServerConfig(
            **{
                "data_dir": data_dir,
                "database_url": database_url,
                "seed": 7,
                "shutdown_grace_seconds": 0.05,
                **options,
            }
        )
        engine = engine or FakeEngine()
        decoder = FakeImageDecoder(
            max_image_bytes=config.max_image_bytes, max_image_pixels=config.max_image_pixels
        )
        app = create_app(config, engine=engine, image_decoder=decoder)
        compiled.share(app.state.services.database)
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport,
                base_url="http://localhost",
                event_hooks={"response": [hook(described)]},
            ) as http,
        ):
            yield Service(
                app=app,
                config=config,
                engine=engine,
                decoder=decoder,
                http=http,
                data_dir=config.data_dir,
            )

    return run


@pytest.fixture
async def service(serve: Serve, anyio_backend: str) -> AsyncIterator[Service]:
    """The app with seed 7 and everything else by default."""
    async with serve() as running:
        yield running
