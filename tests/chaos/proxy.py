"""A proxy of bytes that drops, delays and cuts, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

CHUNK_BYTES = 1 << 14
MISDEEDS = ("refuse", "cut the body", "lose the answer", "cut the answer", "delay the answer")
"""What happens to a connection that is not let through."""
SHARE_LET_THROUGH = 0.5
DELAY_SECONDS = 1.2
"""Longer than the patience of the callers."""


class Proxy:
    """In front of one port of this machine."""

    def __init__(self, target_port: int, chance: random.Random):
        self._target_port = target_port
        self._chance = chance
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        )
        self._server = starting.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)  # the loop itself would let it be collected
        own.add_done_callback(self._tasks.discard)
        let_through = self._chance.random() < SHARE_LET_THROUGH
        deed = "let through" if let_through else self._chance.choice(MISDEEDS)
        self.counts[deed] += 1
        with suppress(OSError, asyncio.CancelledError):  # cancelled at the end of the proxy
            await self._do(deed, reader, writer)
        writer.transport.abort()

    async def _do(
        self, deed: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if deed == "refuse":
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            if deed == "cut the body":
                back.write(await reader.read(64))
                await back.drain()
                return
            up = asyncio.create_task(_pump(reader, back))
            if deed == "lose the answer":
                await there.read(1)
            elif deed == "cut the answer":
                writer.write(await there.read(40))
                await writer.drain()
            else:
                if deed == "delay the answer":
                    first = await there.read(1)
                    await asyncio.sleep(DELAY_SECONDS)
                    writer.write(first)
                await _pump(there, writer)
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
        finally:
            back.transport.abort() if deed != "let through" else back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
