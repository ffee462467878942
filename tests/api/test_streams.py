"""Streamed answers of query, caption and segment; http-api.md 13.3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contract.engine import AnswerDelta
from contract.errors import EngineFailed, RequestRefused, WorkerUnavailable
from tests.api.conftest import Serve
from tests.factories import make_image_url
from tests.fakes import FakeEngine
from tests.service import Service, refusal, until
from tests.streams import Stream, events_of

ONE_DATABASE_IS_ENOUGH = True  # Of answers nothing is stored.

pytestmark = pytest.mark.anyio

BODIES: dict[str, dict[str, Any]] = {
    "query": {"question": "What?", "stream": True},
    "caption": {"image_url": make_image_url(), "stream": True},
    "segment": {"image_url": make_image_url(), "object": "car", "stream": True},
}
METRICS = {
    "input_tokens": 740,
    "output_tokens": 3,
    "prefill_time_ms": 1.0,
    "decode_time_ms": 2.0,
    "ttft_ms": 1.5,
}


def stream(service: Service, skill: str, **changes: Any) -> Stream:
    return Stream(service, f"/v1/{skill}", {**BODIES[skill], **changes})


class Hold:
    """Has the engine wait after some deltas until it is let go."""

    def __init__(self, engine: FakeEngine, *, after: int = 1):
        self.let_go = asyncio.Event()
        self._after = after
        engine.after_delta = self._wait

    async def _wait(self, number: int) -> None:
        if number == self._after:
            await self.let_go.wait()


async def test_a_caption_in_chunks(service: Service) -> None:
    whole = await service.post("/v1/caption", BODIES["caption"], headers={"X-Request-Id": "mine"})
    assert whole.status_code == 200
    assert whole.headers["content-type"] == "text/event-stream"
    assert whole.headers["cache-control"] == "no-cache"
    assert whole.headers["x-accel-buffering"] == "no"
    assert "content-length" not in whole.headers
    *chunks, last = events_of(whole.content)
    assert [event["chunk"] for event in chunks] == ["A", " picture,", " normal."]
    for event in chunks:
        assert {**event, "chunk": ""} == {"chunk": "", "completed": False, "request_id": "mine"}
    assert last == {
        "chunk": "",
        "completed": True,
        "request_id": "mine",
        "org_id": "default",
        "finish_reason": "stop",
        "metrics": METRICS,
        "caption": "A picture, normal.",
    }
    (command,) = service.engine.commands("answer")
    assert command.is_streamed


async def test_what_is_told_is_sent_at_once(service: Service) -> None:
    """The worker cannot be at its end: it waits for this test."""
    hold = Hold(service.engine)
    growing = stream(service, "caption")
    (first,) = await growing.gained(1)
    assert growing.status == 200
    assert (first["chunk"], first["completed"]) == ("A", False)
    hold.let_go.set()
    events = await growing.ended()
    assert "".join(event["chunk"] for event in events) == events[-1]["caption"]
    assert growing.has_ended


async def test_with_reasoning_the_chunks_are_the_answer_alone(service: Service) -> None:
    hold = Hold(service.engine)
    growing = stream(service, "query", reasoning=True)
    await until(lambda: growing.status is not None)  # it thinks, and the caller is told so
    assert growing.events == []
    hold.let_go.set()
    *chunks, last = await growing.ended()
    assert "".join(event["chunk"] for event in chunks) == last["answer"]
    assert all(set(event) == {"chunk", "completed", "request_id"} for event in chunks)
    assert last["reasoning"] == {"text": "because", "grounding": []}
    plain = (await service.post("/v1/query", {"question": "What?", "stream": False})).json()
    assert set(last) == {*plain, "chunk", "completed", "org_id", "reasoning"}


async def test_a_segment_tells_its_box_first(service: Service) -> None:
    Hold(service.engine).let_go.set()
    box, *deltas, final = await stream(service, "segment").ended()
    assert set(box) == {"type", "bbox"}
    assert box["type"] == "bbox"
    assert {(d["type"], d["completed"]) for d in deltas} == {("path_delta", False)}
    assert final == {
        "type": "final",
        "path": "".join(delta["chunk"] for delta in deltas),
        "bbox": box["bbox"],
        "completed": True,
    }


@pytest.mark.parametrize("skill", BODIES)
async def test_refused_requests_get_their_status(service: Service, skill: str) -> None:
    refusal(await service.post(f"/v1/{skill}", {"stream": True}), 400, "validation_error")
    body = {**BODIES[skill], "model": "nothing"}
    refusal(await service.post(f"/v1/{skill}", body), 404, "model_not_found")
    service.engine.faults.append(RequestRefused("Too long.", loc=("question",)))
    refusal(await service.post(f"/v1/{skill}", BODIES[skill]), 400, "validation_error")
    service.engine.faults.append(EngineFailed("Odd."))
    refusal(await service.post(f"/v1/{skill}", BODIES[skill]), 500, "internal_error")
    assert service.dispatcher.num_running == 0


async def test_a_refusal_waits_for_the_turn_and_is_a_status_still(serve: Serve) -> None:
    async with serve(inference_queue_seconds=0.05, max_engine_calls=1) as service:
        hold = Hold(service.engine)
        first = stream(service, "caption")
        await first.gained(1)
        refusal(await service.post("/v1/caption", BODIES["caption"]), 503, "overloaded")
        hold.let_go.set()
        assert (await first.ended())[-1]["completed"]


async def test_after_the_first_byte_a_dead_worker_ends_the_stream_with_an_error(
    service: Service,
) -> None:
    Hold(service.engine)
    growing = stream(service, "caption")
    await growing.gained(1)
    service.engine.die()
    chunk, error, mark = await growing.ended()
    assert chunk["chunk"] == "A"
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert error["error"]["code"] == "worker_unavailable"
    assert mark == "[ERROR]"
    assert growing.has_ended
    assert len(service.engine.commands("answer")) == 1  # what was sent cannot be taken back


@pytest.mark.parametrize("skill", BODIES)
async def test_before_it_the_call_is_done_again(service: Service, skill: str) -> None:
    service.engine.faults.append(WorkerUnavailable("Dead."))
    *_, last = await stream(service, skill).ended()
    assert last["completed"]
    first, second = service.engine.commands("answer")
    assert first == second


async def test_a_thought_that_nobody_saw_may_be_thought_again(service: Service) -> None:
    hold = Hold(service.engine)
    growing = stream(service, "query", reasoning=True)
    await until(lambda: growing.status == 200)
    service.engine.die()
    hold.let_go.set()
    *chunks, last = await growing.ended()
    assert "".join(event["chunk"] for event in chunks) == last["answer"]


async def test_what_a_dead_worker_told_and_nobody_was_sent_is_not_sent_twice(
    service: Service,
) -> None:
    """The reader takes nothing, not even the headers, until the second worker has answered."""
    hold = Hold(service.engine, after=2)
    growing = stream(service, "caption")
    growing.reads.clear()
    await until(lambda: service.engine.num_told == 2)
    service.engine.die()
    hold.let_go.set()
    await until(lambda: service.engine.num_told == 5)  # all three words of the second
    growing.reads.set()
    *chunks, last = await growing.ended()
    assert "".join(event["chunk"] for event in chunks) == last["caption"]


@pytest.mark.parametrize("fault", [EngineFailed("Odd."), RuntimeError("Nobody foresaw it.")])
async def test_whatever_fails_in_the_middle_is_said(service: Service, fault: Exception) -> None:
    async def fail(number: int) -> None:
        if number == 2:
            await until(lambda: growing.events)
            raise fault

    service.engine.after_delta = fail
    growing = stream(service, "query")
    *_, error, mark = await growing.ended()
    assert (error["error"]["code"], mark) == ("internal_error", "[ERROR]")
    assert growing.has_ended


async def test_an_answer_that_is_not_what_was_streamed_is_no_answer(service: Service) -> None:
    class Wavering(FakeEngine):
        async def answer(self, command: Any, images: Any, on_delta: Any = None) -> Any:
            on_delta(AnswerDelta(text="Somebody else's"))
            return await super().answer(command, images)

    service.app.state.services.inference._engine = Wavering()
    *_, error, mark = await stream(service, "caption").ended()
    assert (error["error"]["code"], mark) == ("internal_error", "[ERROR]")


async def test_a_caller_who_leaves_ends_the_work(service: Service) -> None:
    Hold(service.engine)
    growing = stream(service, "caption")
    await growing.gained(1)
    growing.left.set()
    await growing.ended()
    assert len(service.engine.cancelled) == 1
    assert service.dispatcher.num_running == 0
    assert growing.events[-1]["chunk"] == "A"


async def test_a_reader_who_takes_nothing_holds_nobody_back(serve: Serve) -> None:
    """The engine goes on, its turn is free at the end, and what it told waits as one chunk."""
    async with serve(max_engine_calls=1) as service:
        growing = stream(service, "caption")
        growing.reads.clear()
        await until(lambda: service.engine.num_told == 3)
        answer = await service.post("/v1/query", {"question": "What?"})
        assert answer.status_code == 200
        growing.reads.set()
        *chunks, last = await growing.ended()
        assert [event["chunk"] for event in chunks] == [last["caption"]]


async def test_a_running_stream_ends_properly_when_the_service_stops(serve: Serve) -> None:
    async with serve(shutdown_grace_seconds=60) as service:
        hold = Hold(service.engine)
        growing = stream(service, "caption")
        await growing.gained(1)
        closing = asyncio.ensure_future(service.dispatcher.close(grace_seconds=60))
        await until(lambda: service.dispatcher.is_draining)
        refusal(await service.post("/v1/caption", BODIES["caption"]), 503, "overloaded")
        hold.let_go.set()
        assert (await growing.ended())[-1]["completed"]
        await closing


@pytest.mark.parametrize("skill", ["point", "detect"])
async def test_points_and_boxes_do_not_stream(service: Service, skill: str) -> None:
    body = {"image_url": make_image_url(), "object": "car", "stream": True}
    answer = await service.post(f"/v1/{skill}", body)
    assert answer.headers["content-type"] == "application/json"


async def test_the_document_names_the_streams(service: Service) -> None:
    paths = (await service.get("/openapi.json")).json()["paths"]
    for path in ("/v1/query", "/v1/caption", "/v1/segment", "/v1/chat/completions"):
        content = paths[path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
