"""A running decoder with small limits, one per test that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.images.decoder import ImageDecoder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def decoder(anyio_backend: str) -> AsyncIterator[ImageDecoder]:
    decoder = ImageDecoder(num_processes=2, max_bytes=10 << 20, max_pixels=50_000_000)
    await decoder.start()
    yield decoder
    await decoder.stop()
