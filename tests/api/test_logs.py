"""One line per request, and nothing in it that belongs to the caller."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api.conftest import Serve
from tests.factories import make_request

ONE_DATABASE_IS_ENOUGH = True  # This is about the log.

pytestmark = pytest.mark.anyio


async def test_a_request_is_one_line_without_key_picture_or_prompt(serve: Serve) -> None:
    async with serve(api_key="SECRET-KEY") as service:
        service.http.headers["X-Moondream-Auth"] = "SECRET-KEY"
        finetune_id = await service.create()
        with capture_logs() as lines:
            request = make_request("query", question="SECRET-PROMPT")
            assert (await service.roll(finetune_id, request=request)).status_code == 200
            await service.roll("x", request=request)
            await service.train(finetune_id)
            await service.settled()
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["status"], line.get("code")) for line in requests] == [
        (200, None),
        (404, "finetune_not_found"),
        (200, None),
    ]
    assert [line.get("finetune_id") for line in requests] == [finetune_id, None, finetune_id]
    (step,) = [line for line in lines if line["event"] == "step_committed"]
    assert (step["finetune_id"], step["step"]) == (finetune_id, 1)
    assert "SECRET" not in repr(lines)
    assert "base64" not in repr(lines)


async def test_health_checks_are_not_logged(serve: Serve) -> None:
    async with serve() as service:
        with capture_logs() as lines:
            await service.get("/healthz")
            await service.get("/readyz")
    assert lines == []


async def test_a_caller_who_leaves_during_the_upload_is_no_crash(serve: Serve) -> None:
    incoming = [
        {"type": "http.request", "body": b'{"name"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/tuning/finetunes",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    async with serve() as service:
        with capture_logs() as lines:
            await service.app(scope, receive, send)
    assert sent == []
    assert [(line["event"], line["status"], line["code"]) for line in lines] == [
        ("request", None, "caller_left")
    ]
