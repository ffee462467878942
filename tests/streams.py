"""Streamed answers, read while they grow, over raw ASGI: httpx's transport waits for the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from tests.service import Service, until

PREFIX = b"data: "


class Stream:
    """One call; `left` is the caller's leaving, `reads` cleared a caller that takes nothing."""

    def __init__(self, service: Service, path: str, body: Any):
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.received = b""
        self.has_ended = False
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self._content = httpx.Request("POST", "http://localhost", json=body).content
        self._is_sent = False
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        self.call = asyncio.ensure_future(service.app(scope, self._receive, self._send))

    @property
    def events(self) -> list[Any]:
        """Every event so far: its JSON, or its text where that is none."""
        return events_of(self.received)

    async def gained(self, count: int) -> list[Any]:
        """Wait for so many events, and return those that there are."""
        await until(lambda: len(self.events) >= count or self.call.done())
        return self.events

    async def ended(self) -> list[Any]:
        """Wait for the end, and return all events."""
        await self.call
        return self.events

    async def _receive(self) -> Any:
        if not self._is_sent:
            self._is_sent = True
            return {"type": "http.request", "body": self._content, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.received += message["body"]
            self.has_ended = not message.get("more_body", False)


def events_of(received: bytes) -> list[Any]:
    """What a stream says; each event should be one `data:` line and an empty one.

    Comments are left out.
    """
    events: list[Any] = []
    blocks = received.split(b"\n\n")
    assert blocks.pop() == b"", "the last event is not complete"
    for block in blocks:
        assert b"\n" not in block, block
        if block.startswith(b":"):
            continue
        assert block.startswith(PREFIX), block
        text = block.removeprefix(PREFIX).decode()
        events.append(text if text in ("[DONE]", "[ERROR]") else json.loads(text))
    return events
