"""A running app and the calls that tests make to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from server.services.dispatch import Dispatcher
from tests.factories import make_request, make_sft_group
from tests.fakes import FakeEngine, FakeImageDecoder

MAX_TURNS = 2000


@dataclass(frozen=True, kw_only=True)
class Service:
    """The app under test, its fakes, and a client."""

    app: FastAPI
    config: Any
    engine: FakeEngine
    decoder: FakeImageDecoder
    http: httpx.AsyncClient
    data_dir: Path

    @property
    def dispatcher(self) -> Dispatcher:
        return self.app.state.services.dispatcher

    async def create(self, name: str = "cars", rank: int = 8) -> str:
        """Create a finetune and return its id."""
        answer = await self.post("/v1/tuning/finetunes", {"name": name, "rank": rank})
        assert answer.status_code == 200, answer.text
        return answer.json()["finetune_id"]

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, json=body, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.delete(path, **options)

    async def train(self, finetune_id: str, **changes: Any) -> httpx.Response:
        """Train one step on one supervised group."""
        body = {"finetune_id": finetune_id, "groups": [make_sft_group()], **changes}
        return await self.post("/v1/tuning/train_step", body)

    async def roll(self, finetune_id: str, skill: str = "detect", **changes: Any) -> httpx.Response:
        """Make rollouts."""
        body = {"finetune_id": finetune_id, "request": make_request(skill), **changes}
        return await self.post("/v1/tuning/rollouts", body)

    async def save(self, finetune_id: str) -> httpx.Response:
        return await self.http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save")

    def state_files(self, finetune_id: str) -> list[str]:
        """The names of a finetune's files."""
        folder = self.data_dir / "finetunes" / finetune_id
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    async def settled(self) -> None:
        """Wait for background work: files that go, answers that are written down as taken."""
        services = self.app.state.services
        await services.ledger.settled()
        await services.cleanup.settled()


async def until(condition: Callable[[], object]) -> None:
    """Give other tasks turns until something is so."""
    for _ in range(MAX_TURNS):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never became so")


def refusal(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is the one error body with this status and code; return the body."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"detail", "message", "error", "request_id"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code, body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["message"] == body["error"]["message"]
    assert len(body["message"]) <= 300
    if status in (400, 422):
        for fault in body["detail"]:
            assert set(fault) == {"type", "loc", "msg"}
            assert fault["loc"][0] in ("body", "query", "path")
    else:
        assert body["detail"] == body["message"]
    assert answer.headers["content-type"] == "application/json"
    return body


def locs(answer: httpx.Response) -> list[tuple[str | int, ...]]:
    """Where the faults of a refused request are."""
    return [tuple(fault["loc"]) for fault in answer.json()["detail"]]
