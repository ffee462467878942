"""Calls over connections whose fate the test decides."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from server.domain.delivery import Delivery
from server.http.protocol import DELIVERY
from tests.factories import make_sft_group
from tests.service import Service


@dataclass(kw_only=True)
class WatchedCall:
    """One POST; `delivery` is what the connection will say of its answer."""

    delivery: Delivery = field(default_factory=Delivery)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    task: asyncio.Task[None] | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def is_replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"

    async def answered(self) -> WatchedCall:
        """Wait for the answer."""
        assert self.task is not None
        await self.task
        return self


def post_watched(service: Service, path: str, body: Any, **headers: str) -> WatchedCall:
    """Begin a POST on a connection of its own."""
    call = WatchedCall()
    names = {"host": "localhost", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        "extensions": {DELIVERY: call.delivery},
    }
    content = [json.dumps(body).encode()]

    async def receive() -> Any:
        if content:
            return {"type": "http.request", "body": content.pop(), "more_body": False}
        await asyncio.Event().wait()
        return None

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            call.status = message["status"]
            call.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            call.content += message.get("body", b"")

    call.task = asyncio.create_task(service.app(scope, receive, send))
    return call


def train_watched(service: Service, finetune_id: str, **changes: Any) -> WatchedCall:
    """Begin a train step; equal changes make equal bytes."""
    body = {"finetune_id": finetune_id, "groups": [make_sft_group()], **changes}
    return post_watched(service, "/v1/tuning/train_step", body)
