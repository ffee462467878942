"""Callers who leave before their answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.service import Service


async def send_and_leave(service: Service, path: str, body: Any) -> tuple[Any, asyncio.Event]:
    """Start a call over raw ASGI; setting the event is the caller's leaving."""
    request = httpx.Request("POST", f"http://localhost{path}", json=body)
    left, sent = asyncio.Event(), False

    async def receive() -> Any:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": request.content, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    return asyncio.create_task(service.app(scope, receive, send)), left
