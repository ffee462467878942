"""Large bodies: spooled, cut, echoed whole, and gone when their call has ended; http-api.md 2.1."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from contract.errors import WorkerUnavailable
from server.api import json_body
from server.services.admission import Admission
from tests.api.conftest import Serve
from tests.api.test_transport import Upload
from tests.api.test_waiting import send_and_leave
from tests.factories import make_group, make_image_url, make_request, make_sft_group
from tests.service import Service, refusal, until

pytestmark = pytest.mark.anyio

MIB = 1 << 20


def heavy_image_url(num_bytes: int = 100_000) -> str:
    """A picture of 8 x 6 in a file that is as long as is wanted: what follows a PNG is not read."""
    head, _, payload = make_image_url().partition(",")
    return f"{head},{base64.b64encode(base64.b64decode(payload) + bytes(num_bytes)).decode()}"


def is_empty(service: Service) -> bool:
    return not any(budget.used for budget in admission(service).budgets().values())


def admission(service: Service) -> Admission:
    return service.app.state.services.admission


@pytest.mark.parametrize(
    "num_padding", [0, 2 * MIB, 9 * MIB], ids=["sent_at_once", "in_memory", "in_a_file"]
)
async def test_the_echo_of_a_large_body_is_the_body_as_it_came(
    service: Service, num_padding: int
) -> None:
    body = {
        "finetune_id": await service.create(),
        "request": make_request(image_url=heavy_image_url()),
        "num_rollouts": 2,
        "more": {"é": ["\\", {"image_url": heavy_image_url(5000) + "?"}], "x": "y" * num_padding},
    }
    answer = await service.post("/v1/tuning/rollouts", body)
    assert answer.status_code == 200, answer.text[:300]
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.json()["request"] == body
    assert len(answer.json()["rollouts"]) == 2
    assert is_empty(service)


async def test_the_worker_sees_the_pictures_of_a_large_step_once_each(service: Service) -> None:
    urls = [heavy_image_url(5 * MIB), heavy_image_url(6 * MIB)]
    groups = [make_sft_group(request=make_request("query", image_url=url)) for url in urls * 2]
    assert (await service.train(await service.create(), groups=groups)).json()["step"] == 1
    (command,) = service.engine.commands("train_step")
    assert [group.request.image for group in command.groups] == [0, 1, 0, 1]
    assert service.decoder.num_decoded == 2
    assert is_empty(service)


async def test_a_large_step_is_as_good_as_its_pictures(service: Service) -> None:
    finetune_id = await service.create()
    for url in ("data:image/png;base64," + "A" * 5000, "data:image/png," + "A" * 5000):
        group = make_sft_group(request=make_request("query", image_url=url))
        answer = await service.train(finetune_id, groups=[make_sft_group(), group])
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "groups", 1, "request", "image_url"]
    assert is_empty(service)


async def test_pictures_are_decoded_when_a_call_has_its_turn(serve: Serve) -> None:
    async with serve(max_engine_calls=1) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        urls = [heavy_image_url(10_000 + i) for i in range(5)]
        calls = [asyncio.create_task(service.roll(finetune_id))]
        await until(lambda: service.engine.calls)
        calls += [
            asyncio.create_task(service.roll(finetune_id, request=make_request(image_url=url)))
            for url in urls
        ]
        await until(lambda: service.dispatcher.num_waiting == 5)
        assert service.decoder.num_decoded == 1
        assert admission(service).pictures.answers.used == 8 * 6 * 3
        service.engine.gate.set()
        assert [(await call).status_code for call in calls] == [200] * 6
        assert is_empty(service)


async def test_only_the_next_steps_have_pixels(service: Service) -> None:
    finetunes = [await service.create(f"f{i}") for i in range(6)]
    service.engine.gate.clear()
    calls = [asyncio.create_task(service.train(i, lr=lr)) for i in finetunes for lr in (0.1, 0.2)]
    # The one that runs, and the next two.
    await until(lambda: service.decoder.num_decoded == 3 and service.engine.calls)
    await until(lambda: service.dispatcher.num_waiting == 11)
    assert service.engine.verbs() == ["train_step"]
    assert service.decoder.num_decoded == 3
    assert admission(service).pictures.steps.used == 3 * 8 * 6 * 3
    service.engine.gate.set()
    assert [(await call).status_code for call in calls] == [200] * 12
    assert is_empty(service)


async def test_without_room_for_its_pixels_a_call_waits_and_is_refused(serve: Serve) -> None:
    size = (1000, 1000)  # 3 MB of pixels, 12 kB in the file
    urls = [make_image_url((i, 0, 0), size) for i in range(3)]
    async with serve(max_answer_pixel_bytes=4 * MIB, inference_queue_seconds=3.0) as service:
        service.engine.gate.clear()
        first = asyncio.create_task(service.post("/v1/detect", make_request(image_url=urls[0])))
        await until(lambda: service.engine.num_running == 1)
        second = await service.post("/v1/detect", make_request(image_url=urls[1]))
        assert (
            "pictures of other calls take 3000000" in refusal(second, 503, "overloaded")["message"]
        )
        third = asyncio.create_task(service.post("/v1/detect", make_request(image_url=urls[2])))
        await until(lambda: admission(service).pictures.answers.num_waiting)
        service.engine.gate.set()
        assert [(await first).status_code, (await third).status_code] == [200, 200]
        assert is_empty(service)


async def test_a_call_with_more_pixels_than_there_may_be_runs_alone(serve: Serve) -> None:
    groups = [
        make_sft_group(
            request=make_request("query", image_url=make_image_url((i, 9, 0), (800, 800)))
        )
        for i in range(3)
    ]  # 5.8 MB
    async with serve(max_step_pixel_bytes=MIB) as service:
        finetune_id = await service.create()
        answers = await asyncio.gather(
            *(service.train(finetune_id, groups=groups) for _ in range(3)),
            service.train(finetune_id),
        )
        assert [answer.status_code for answer in answers] == [200] * 4
        assert is_empty(service)


async def test_a_body_without_room_is_held_then_refused_after_it_was_read(serve: Serve) -> None:
    async with serve(max_queued_bytes=MIB, rollouts_queue_seconds=0.2) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        large = {"finetune_id": finetune_id, "groups": [make_sft_group()], "x": "y" * 900_000}
        first = asyncio.create_task(service.post("/v1/tuning/train_step", large))
        await until(lambda: service.engine.num_running == 1)
        upload = Upload(num_chunks=10, chunk_bytes=20_000)
        length = {"Content-Length": "200000"}
        assert await upload.run(service, "/v1/tuning/rollouts", length) == (503, "overloaded")
        assert upload.num_sent_at_answer == 10
        service.engine.gate.set()
        assert (await first).status_code == 200
        assert is_empty(service)


async def test_json_that_would_take_too_much_memory_is_refused(serve: Serve) -> None:
    async with serve(max_json_memory_bytes=10 * MIB) as service:
        finetune_id = await service.create()
        answer = await service.train(finetune_id, x=[[]] * 100_000)  # 300 kB
        refusal(answer, 413, "body_too_large")
        picture = heavy_image_url(6 * MIB)  # of 8 MB in the body
        group = make_sft_group(request=make_request("query", image_url=picture))
        assert (await service.train(finetune_id, groups=[group])).status_code == 200
        assert is_empty(service)


async def test_json_without_room_waits_and_is_refused(serve: Serve) -> None:
    async with serve(max_json_memory_bytes=10 * MIB, rollouts_queue_seconds=0.1) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        first = asyncio.create_task(service.train(finetune_id, x=[1] * 100_000))
        await until(lambda: service.engine.num_running == 1)
        answer = await service.roll(finetune_id, x=[1] * 100_000)
        assert "of memory" in refusal(answer, 503, "overloaded")["message"]
        service.engine.gate.set()
        assert (await first).status_code == 200
        assert is_empty(service)


async def test_a_step_keeps_its_pictures_although_its_handler_is_gone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()
    service.engine.gate.clear()
    running = asyncio.create_task(service.train(finetune_id))
    await until(lambda: service.engine.calls)
    group = make_sft_group(request=make_request("query", image_url=heavy_image_url()))
    body = {"finetune_id": finetune_id, "groups": [group]}
    waiting, _ = await send_and_leave(service, "/v1/tuning/train_step", body)
    await until(lambda: service.dispatcher.num_waiting == 1)
    waiting.cancel()
    await asyncio.wait({waiting})
    service.engine.gate.set()
    await running
    await until(lambda: len(service.engine.calls) == 2)
    await until(lambda: service.dispatcher.num_running == 0)
    assert is_empty(service)


async def test_a_redo_has_the_pictures_too(service: Service) -> None:
    service.engine.faults.append(WorkerUnavailable("The worker died."))
    group = make_group(request=make_request(image_url=heavy_image_url(9 * MIB)))
    assert (await service.train(await service.create(), groups=[group])).status_code == 200
    assert is_empty(service)


async def test_a_caller_that_goes_while_it_sends_leaves_nothing(service: Service) -> None:
    upload = Upload(num_chunks=300, chunk_bytes=65536)
    upload.chunks = upload.chunks[:200]

    async def receive() -> Any:
        message = await Upload.receive(upload)
        return {**message, "more_body": True} if message["type"] == "http.request" else message

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/tuning/train_step",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"19660800")],
    }
    before = len(os.listdir("/proc/self/fd"))
    await service.app(scope, receive, upload.send)
    assert upload.messages == []
    assert is_empty(service)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_who_writes_the_name_of_a_slice_gets_nothing_of_it(service: Service) -> None:
    finetune_id = await service.create()
    name = "slice:" + "0" * 32 + ":0:100"
    answer = await service.roll(finetune_id, request=make_request(image_url=name))
    refusal(answer, 422, "image_url_scheme")
    answer = await service.post(
        "/v1/tuning/rollouts",
        {"finetune_id": finetune_id, "request": make_request("query", question=name)},
    )
    assert answer.json()["request"]["request"]["question"] == name


async def test_ignored_fields_are_looked_for_in_a_thread(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    search = json_body.ignored_fields

    def noting(body: BaseModel) -> list[str]:
        threads.append(threading.get_ident())
        return search(body)

    monkeypatch.setattr(json_body, "ignored_fields", noting)
    await service.create()
    assert threads
    assert threading.get_ident() not in threads
