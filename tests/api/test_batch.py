"""Batches through the app: uploads in every form, lines good and bad, lists, links, limits."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import disk
from contract.errors import EngineFailed, RequestRefused, StateDamaged, WorkerUnavailable
from contract.work import WorkClass
from server.backup import back_up
from server.config import ServerConfig
from server.restore import restore
from server.sweep_lease import reading_all
from server.verification import verify
from tests.accounts import calling_with, flushed, make_key, rows
from tests.api.conftest import Serve
from tests.factories import make_image_url
from tests.fakes import FAKE_MODEL, FakeEngine
from tests.service import Service, locs, refusal, until

pytestmark = pytest.mark.anyio

BATCH = "/v1/batch"
DAY_MS = 86_400_000
IMAGE = make_image_url()
BARE = IMAGE.partition(",")[2]


def line(number: int = 0, **changes: Any) -> dict[str, Any]:
    made = {"id": f"line-{number}", "skill": "detect", "object": f"car {number}", "image": BARE}
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def text_of(lines: Iterable[dict[str, Any] | bytes]) -> bytes:
    return b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)


async def begin(service: Service) -> tuple[str, str]:
    """Begin an upload; return its address and its upload id."""
    answer = await service.http.post(f"{BATCH}?action=mpu-create")
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["key"] == f"requests/default/{made['fileId']}.jsonl"
    return f"{BATCH}/{made['fileId']}", made["uploadId"]


async def put(
    service: Service, path: str, upload_id: str, number: Any, content: bytes
) -> httpx.Response:
    words = {"action": "mpu-uploadpart", "uploadId": upload_id, "partNumber": number}
    return await service.http.put(path, params=words, content=content)


async def complete(
    service: Service, path: str, upload_id: str, parts: list[Any], **more: Any
) -> httpx.Response:
    words = {"action": "mpu-complete", "uploadId": upload_id}
    return await service.http.post(path, params=words, json={"parts": parts, **more})


async def submit(service: Service, *contents: bytes, **more: Any) -> str:
    """Upload a batch in parts; return its address."""
    path, upload_id = await begin(service)
    parts = []
    for number, content in enumerate(contents, 1):
        answer = await put(service, path, upload_id, number, content)
        assert answer.status_code == 200, answer.text
        parts.append(answer.json())
    answer = await complete(service, path, upload_id, parts, **more)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "id": path.rpartition("/")[2],
        "status": "chunking",
        "size": sum(map(len, contents)),
    }
    return path


async def ended(service: Service, path: str) -> dict[str, Any]:
    """Wait for the end of a batch; return what is shown of it."""
    shown: dict[str, Any] = {}
    for _ in range(4000):
        shown = (await service.get(path)).json()
        if shown["status"] in ("completed", "failed"):
            return shown
        await asyncio.sleep(0.002)
    raise AssertionError(f"it never ended: {shown}")


async def results(service: Service, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """All lines of the outputs, whose digests are compared."""
    found: list[dict[str, Any]] = []
    for index, output in enumerate(shown["outputs"]):
        assert output["index"] == index
        answer = await service.get(output["url"])
        assert answer.status_code == 200, answer.text
        found += map(json.loads, answer.text.splitlines())
    assert [row["line_index"] for row in found] == list(range(len(found)))
    return found


async def answered(service: Service, *lines: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    shown = await ended(service, await submit(service, text_of(lines)))
    assert shown["status"] == "completed", shown
    return await results(service, shown)


def stored(service: Service) -> list[str]:
    """What kinds of files of batches there are."""
    folder = service.data_dir / "batches"
    return sorted(path.name.partition("-")[0] for path in folder.rglob("*") if path.is_file())


async def settled(service: Service) -> None:
    """Wait until what has ended is swept: a batch is seen to have ended before its work has."""
    await until(lambda: not service.app.state.services.batches.runner.num_running)
    await service.app.state.services.batches.cleanup.settled()


# --- the whole way


async def test_a_batch_comes_in_parts_and_is_answered_in_order(serve: Serve) -> None:
    async with serve(batch_chunk_lines=3, max_batch_output_lines=4) as service:
        content = text_of(line(number) for number in range(10))
        path = await submit(service, content[:50], content[50:51], content[51:])
        shown = await ended(service, path)
        assert shown["status"] == "completed"
        assert shown["model"] == "moondream3-preview"
        assert shown["progress"] == {"total": 10, "completed": 10, "failed": 0}
        assert shown["usage"] == {"input_tokens": 7400, "output_tokens": 30}
        assert shown["created_at"] <= shown["completed_at"] < shown["expires_at"]
        assert [output["index"] for output in shown["outputs"]] == [0, 1, 2]
        rows = await results(service, shown)
        assert [row["id"] for row in rows] == [f"line-{number}" for number in range(10)]
        first = rows[0]
        assert set(first) == {"line_index", "id", "status", "result", "usage"}
        assert first["status"] == "ok"
        assert set(first["result"]) == {"objects", "finish_reason"}
        assert first["usage"] == {"input_tokens": 740, "output_tokens": 3}
        commands = service.engine.commands("answer")
        assert {command.work_class for command in commands} == {WorkClass.BATCH}
        assert len({command.seed for command in commands}) == 10
        await settled(service)
        assert stored(service) == ["output"] * 3  # the input and the answers are gone
        assert verify(service.config).is_good
        assert not verify(service.config).unnamed
        file = await service.get(shown["outputs"][0]["url"])
        assert file.headers["content-type"] == "application/octet-stream"
        part = await service.get(shown["outputs"][0]["url"], headers={"Range": "bytes=2-5"})
        assert (part.status_code, part.content) == (206, file.content[2:6])
        again = (await service.get(path)).json()["outputs"][0]["url"]
        assert (await service.get(again)).content == file.content
        listed = (await service.get(BATCH)).json()
        assert [batch["id"] for batch in listed["batches"]] == [shown["id"]]


async def test_every_skill_with_the_defaults_of_batches(service: Service) -> None:
    rows = await answered(
        service,
        {"skill": "query", "question": "why?", "image": IMAGE},
        {"skill": "query", "question": "why?", "images": [BARE], "reasoning": False},
        {"skill": "caption", "length": "short", "image": BARE, "id": {"a": [1, None]}},
        {"skill": "point", "object": "car", "image": BARE, "id": 7, "reasoning": True},
        {"skill": "detect", "object": "car", "image": BARE, "settings": {"max_objects": 3}},
        {"skill": "query", "question": "which?", "images": [BARE, make_image_url((0, 0, 9))]},
    )
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert [row["id"] for row in rows] == [None, None, {"a": [1, None]}, 7, None, None]
    assert "reasoning" in rows[0]["result"]
    assert "reasoning" not in rows[1]["result"]
    commands = {command.request.skill: command for command in service.engine.commands("answer")}
    assert commands["caption"].request.length == "short"
    assert commands["caption"].settings.temperature == 0.2
    assert commands["point"].settings.temperature == 0
    assert commands["detect"].settings.max_objects == 3
    (turn,) = commands["chat"].request.turns  # a query about several pictures
    assert (turn.text, turn.images, commands["chat"].request.reasoning) == ("which?", (0, 1), True)


BAD: list[tuple[dict[str, Any] | bytes, str, Any]] = [
    (b"", "invalid_request", None),
    (b"   \r", "invalid_request", None),
    (b"{", "invalid_request", None),
    (b"[1]", "invalid_request", None),
    (b'"text"', "invalid_request", None),
    (b'{"id": 1, "temperature": NaN}', "invalid_request", None),
    (b'{"id": 1, "x": 1e999}', "invalid_request", 1),
    (b'{"id": 1e999}', "invalid_request", None),
    (b'{"id": "\\ud800"}', "invalid_request", None),
    (b'{"id": "\\u0000"}', "invalid_request", None),
    (b'\xef\xbb\xbf{"id": 1}', "invalid_request", None),
    (b'{"id": "\xff"}', "invalid_request", None),
    (b'{"id": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_request", None),
    ({"id": 5}, "invalid_request", 5),
    (line(skill=3), "invalid_request", "line-0"),
    (line(skill="segment"), "unknown_skill", "line-0"),
    (line(skill="x" * 10_000), "unknown_skill", "line-0"),
    (line(object=" "), "invalid_request", "line-0"),
    (line(image=None), "invalid_request", "line-0"),
    (line(image=5), "invalid_request", "line-0"),
    (line(image=""), "image_decode_failed", "line-0"),
    (line(image="!!!"), "image_decode_failed", "line-0"),
    (line(image=BARE[:40]), "image_decode_failed", "line-0"),
    (line(image="https://example.com/a.png"), "invalid_request", "line-0"),
    (line(settings={"top_p": 2}), "invalid_request", "line-0"),
    (line(skill="query"), "invalid_request", "line-0"),
    (
        line(skill="query", question="q", images=[BARE] * 9, image=None),
        "invalid_request",
        "line-0",
    ),
    (line(skill="query", question="q", images=[BARE]), "invalid_request", "line-0"),
    (line(images=[BARE], image=None), "invalid_request", "line-0"),
    (line(skill="caption", length="huge"), "invalid_request", "line-0"),
]


async def test_bad_lines_are_reported_alone(service: Service) -> None:
    rows = await answered(service, line(1), *(bad for bad, _, _ in BAD), line(2))
    assert [rows[0]["status"], rows[-1]["status"]] == ["ok", "ok"]
    for row, (bad, code, id) in zip(rows[1:-1], BAD, strict=True):
        assert (row["status"], row["error"]["code"], row["id"]) == ("error", code, id), (bad, row)
        assert set(row) == {"line_index", "id", "status", "error"}
        assert 0 < len(row["error"]["message"]) < 400
        assert BARE[:40] not in row["error"]["message"]
    assert len(service.engine.commands("answer")) == 2
    shown = (await service.get(BATCH)).json()["batches"][0]
    assert shown["progress"] == {"total": len(BAD) + 2, "completed": 2, "failed": len(BAD)}


async def test_a_last_line_needs_no_line_feed_and_line_feeds_may_be_dos(service: Service) -> None:
    content = text_of([line(0), line(1)]).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    shown = await ended(service, await submit(service, content))
    assert shown["progress"] == {"total": 2, "completed": 2, "failed": 0}


async def test_what_the_engine_says_of_a_line_is_its_error(service: Service) -> None:
    service.engine.faults.extend([RequestRefused("Too long."), EngineFailed("It broke."), None])
    service.app.state.services.dispatcher._max_batch_calls = 1
    rows = await answered(service, line(0), line(1), line(2))
    assert [row.get("error", {}).get("code") for row in rows] == [
        "invalid_request",
        "processing_error",
        None,
    ]
    assert rows[0]["error"]["message"] == "Too long."


async def test_a_line_that_kills_the_worker_twice_is_an_error_and_costs_no_other(
    service: Service,
) -> None:
    service.engine.is_poison = lambda command: command.request.object == "car 4"
    rows = await answered(service, *(line(number) for number in range(9)))
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["error"] + ["ok"] * 4
    assert rows[4]["error"]["code"] == "processing_error"
    assert service.engine.epoch == 3  # two workers died


async def test_a_worker_that_dies_costs_no_line(service: Service) -> None:
    service.engine.faults.extend([None, None, WorkerUnavailable("It died.")])
    rows = await answered(service, *(line(number) for number in range(6)))
    assert [row["status"] for row in rows] == ["ok"] * 6


# --- beside other work


async def test_batches_wait_for_others_and_others_never_for_them(serve: Serve) -> None:
    async with serve(max_batch_calls=8, max_engine_calls=2) as service:
        service.engine.gate.clear()
        path = await submit(service, text_of(line(number) for number in range(40)))
        await until(lambda: service.engine.num_running == 8)  # nothing else is to do
        body = {"question": "why?"}
        asking = [asyncio.create_task(service.post("/v1/query", body)) for _ in range(2)]
        await until(lambda: service.engine.num_running == 10)
        running = service.dispatcher.calls_running()
        assert running == {WorkClass.BATCH: 8, WorkClass.INFERENCE: 2}
        service.engine.gate.set()
        for answer in await asyncio.gather(*asking):
            assert answer.status_code == 200
        assert (await ended(service, path))["progress"]["completed"] == 40


async def test_beside_others_and_some_seconds_after_a_batch_has_few_of_its_turns(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.dispatch.CALM_SECONDS", 0.2)
    async with serve(max_batch_calls=16) as service:
        service.engine.gate.clear()
        asking = asyncio.create_task(service.post("/v1/query", {"question": "why?"}))
        await until(lambda: service.engine.num_running == 1)
        path = await submit(service, text_of(line(number) for number in range(40)))
        await until(lambda: service.engine.num_running == 3)
        asking.cancel()
        await until(lambda: service.engine.num_running == 2)
        await asyncio.sleep(0.02)
        assert service.dispatcher.calls_running() == {WorkClass.BATCH: 2, WorkClass.INFERENCE: 0}
        await until(lambda: service.engine.num_running == 16)
        service.engine.gate.set()
        await ended(service, path)


# --- uploads


@pytest.mark.parametrize("quoted", ["{}", '"{}"', 'W/"{}"', " {} "])
async def test_etags_with_and_without_quotation_marks(service: Service, quoted: str) -> None:
    path, upload_id = await begin(service)
    content = text_of([line()])
    answer = await put(service, path, upload_id, 1, content)
    etag = answer.json()["etag"]
    assert answer.json() == {"etag": hashlib.sha256(content).hexdigest(), "partNumber": 1}
    listed = [{"partNumber": 1, "etag": quoted.format(etag)}]
    assert (await complete(service, path, upload_id, listed)).status_code == 200
    assert (await ended(service, path))["status"] == "completed"


async def test_a_repeated_part_replaces_the_first(service: Service) -> None:
    path, upload_id = await begin(service)
    first = (await put(service, path, upload_id, 2, text_of([line(9)]))).json()
    parts = [(await put(service, path, upload_id, 2, text_of([line(2)]))).json()]
    parts.append((await put(service, path, upload_id, 1, text_of([line(1)]))).json())
    await settled(service)
    assert stored(service) == ["part", "part"]
    stale = [first, parts[1]]
    assert locs(await complete(service, path, upload_id, stale)) == [("body", "parts", 0, "etag")]
    assert (await complete(service, path, upload_id, parts)).status_code == 200
    rows = await results(service, await ended(service, path))
    assert [row["id"] for row in rows] == ["line-1", "line-2"]


async def test_completing_again_returns_the_same_batch(service: Service) -> None:
    path, upload_id = await begin(service)
    part = (await put(service, path, upload_id, 1, text_of([line()]))).json()
    answers = await asyncio.gather(*(complete(service, path, upload_id, [part]) for _ in range(4)))
    assert {answer.json()["id"] for answer in answers} == {path.rpartition("/")[2]}
    await ended(service, path)
    again = await complete(service, path, upload_id, [])
    assert again.json()["status"] == "completed"
    assert len(service.engine.commands("answer")) == 1
    refusal(await put(service, path, upload_id, 1, b"x"), 400, "validation_error")
    abort = {"action": "mpu-abort", "uploadId": upload_id}
    refusal(await service.delete(path, params=abort), 400, "validation_error")


async def test_lists_of_parts_that_are_refused(service: Service) -> None:
    path, upload_id = await begin(service)
    one = (await put(service, path, upload_id, 1, b"{}\n")).json()
    two = (await put(service, path, upload_id, 2, b"{}\n")).json()
    other = {"partNumber": 3, "etag": one["etag"]}
    for parts in ([], [one], [one, one, two], [one, two, other], [{"partNumber": 1}], 5, [[]]):
        refusal(await complete(service, path, upload_id, parts), 400, "validation_error")  # type: ignore[arg-type]
    assert (await service.get(path)).status_code == 404  # it is no batch yet
    assert (await complete(service, path, upload_id, [two, one])).status_code == 200


async def test_aborting(service: Service) -> None:
    path, upload_id = await begin(service)
    await put(service, path, upload_id, 1, b"x")
    abort = {"action": "mpu-abort", "uploadId": upload_id}
    for _ in range(3):
        answer = await service.delete(path, params=abort)
        assert (answer.status_code, answer.json()) == (200, {"ok": True})
    await settled(service)
    assert stored(service) == []
    refusal(await put(service, path, upload_id, 1, b"x"), 404, "batch_not_found")
    refusal(await complete(service, path, upload_id, []), 404, "batch_not_found")
    assert (await service.get(BATCH)).json()["batches"] == []


async def test_wrong_words_in_the_address(service: Service) -> None:
    path, upload_id = await begin(service)
    for method, address, words in (
        ("POST", BATCH, {}),
        ("POST", BATCH, {"action": "mpu-abort"}),
        ("PUT", path, {"action": "mpu-uploadpart", "partNumber": "1"}),
        ("PUT", path, {"action": "mpu-uploadpart", "uploadId": upload_id}),
        ("PUT", path, {"action": "mpu-create", "uploadId": upload_id, "partNumber": "1"}),
        ("DELETE", path, {"uploadId": upload_id}),
    ):
        answer = await service.http.request(method, address, params=words, content=b"x" * 1000)
        refusal(answer, 400, "validation_error")
        assert locs(answer)[0][0] == "query"
    for number in ("0", "10001", "x", "-1", "1.5"):
        answer = await put(service, path, upload_id, number, b"x")
        refusal(answer, 400, "validation_error")
    for strange in (f"{BATCH}/{'0' * 26}", f"{BATCH}/x"):
        refusal(await put(service, strange, upload_id, 1, b"x"), 404, "batch_not_found")
        refusal(await service.get(strange), 404, "batch_not_found")
    refusal(await put(service, path, "x", 1, b"x"), 404, "batch_not_found")
    refusal(await put(service, path, "é", 1, b"x"), 404, "batch_not_found")
    refusal(await service.get(f"{BATCH}?cursor=x"), 400, "validation_error")


async def test_sizes_that_are_refused_at_once(serve: Serve) -> None:
    async with serve(max_batch_part_bytes=2000, max_batch_bytes=3000) as service:
        path, upload_id = await begin(service)
        refusal(await put(service, path, upload_id, 1, b"x" * 2001), 413, "body_too_large")
        refusal(await put(service, path, upload_id, 1, b"x" * 9001), 413, "body_too_large")
        assert (await put(service, path, upload_id, 1, b"x" * 2000)).status_code == 200
        answer = await put(service, path, upload_id, 2, b"x" * 1001)
        assert "3001" in refusal(answer, 400, "limit_exceeded")["message"]
        assert (await put(service, path, upload_id, 1, b"x" * 1999)).status_code == 200
        assert (await put(service, path, upload_id, 2, b"x" * 1001)).status_code == 200


async def test_a_disk_without_room_refuses_a_part_and_a_batch_waits_for_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"bytes": 1 << 40}
    monkeypatch.setattr(disk, "free_bytes", lambda _path: free["bytes"])
    monkeypatch.setattr("server.services.batches.work.PAUSE_SECONDS", 0.01)
    async with serve(min_free_bytes=1000) as service:
        path, upload_id = await begin(service)
        free["bytes"] = 1000
        refusal(await put(service, path, upload_id, 1, b"x"), 507, "storage_full")
        assert stored(service) == []
        free["bytes"] = 1 << 40
        part = (await put(service, path, upload_id, 1, text_of([line()]))).json()
        free["bytes"] = 1000
        await complete(service, path, upload_id, [part])
        await until(lambda: len(service.engine.commands("answer")) == 1)
        await asyncio.sleep(0.05)
        assert (await service.get(path)).json()["status"] == "processing"
        free["bytes"] = 1 << 40
        assert (await ended(service, path))["status"] == "completed"
        assert len(service.engine.commands("answer")) == 1  # what was answered was kept


# --- batches that fail


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_batch"),
        (b"{}\n" * 6, "limit_exceeded"),
        (b"{}\n" * 5 + b"{}", "limit_exceeded"),
        (b"{}\n" + b"x" * 1025 + b"\n", "limit_exceeded"),
        (b"x" * 1025, "limit_exceeded"),
    ],
    ids=["empty", "lines", "lines-without-feed", "long-line", "long-last-line"],
)
async def test_limits_that_only_the_lines_show(serve: Serve, content: bytes, code: str) -> None:
    async with serve(max_batch_lines=5, max_batch_line_bytes=1024) as service:
        shown = await ended(service, await submit(service, content))
        assert (shown["status"], shown["error"]["code"]) == ("failed", code)
        assert shown["error"]["message"]
        assert "outputs" not in shown
        await settled(service)
        assert stored(service) == []
        just = b"{}\n" * 4 + b" " * 1024
        assert (await ended(service, await submit(service, just)))["progress"]["failed"] == 5


async def test_models(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.save(finetune_id)
    path, upload_id = await begin(service)
    part = (await put(service, path, upload_id, 1, text_of([line(), line(1)]))).json()
    for model, status, code in (
        ("gpt-4", 400, "invalid_model"),
        (5, 400, "invalid_model"),
        (f"x/{finetune_id}@latest", 400, "invalid_model"),
        (f"x/{finetune_id}@7", 404, "checkpoint_not_found"),
        (f"x/{'0' * 26}@1", 404, "finetune_not_found"),
    ):
        refusal(await complete(service, path, upload_id, [part], model=model), status, code)
    model = f"moondream3-preview/{finetune_id}@1"
    assert (await complete(service, path, upload_id, [part], model=model)).status_code == 200
    shown = await ended(service, path)
    assert (shown["status"], shown["model"]) == ("completed", model)
    assert {command.adapter.step for command in service.engine.commands("answer")} == {1}


async def test_a_checkpoint_that_is_deleted_meanwhile_fails_the_batch(serve: Serve) -> None:
    async with serve(max_batch_calls=2) as service:
        finetune_id = await service.create()
        await service.train(finetune_id)
        await service.save(finetune_id)
        service.engine.gate.clear()
        lines = text_of(line(number) for number in range(8))
        path = await submit(service, lines, model=f"{finetune_id}@1")
        await until(lambda: service.engine.num_running == 1)
        await service.delete(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/1")
        service.engine.gate.set()
        shown = await ended(service, path)
        assert (shown["status"], shown["error"]["code"]) == ("failed", "invalid_model")
        assert "deleted" in shown["error"]["message"]
        await settled(service)
        assert stored(service) == []


async def test_a_batch_that_takes_too_long(serve: Serve) -> None:
    async with serve(batch_max_seconds=1e-6) as service:
        shown = await ended(service, await submit(service, text_of([line()])))
        assert (shown["status"], shown["error"]["code"]) == ("failed", "timeout")


async def test_a_fault_of_our_own_fails_the_batch_in_the_end(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.batches.runner.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("server.services.batches.runner.MAX_FAILURES", 2)
    lines = service.app.state.services.batches.runner._work._lines

    async def fail(*_words: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(lines, "_attempt", fail)
    shown = await ended(service, await submit(service, text_of([line()])))
    assert (shown["status"], shown["error"]["code"]) == ("failed", "processing_failed")


async def test_weights_that_are_damaged_fail_the_batch_which_says_so(service: Service) -> None:
    service.engine.faults.append(StateDamaged("/a/path is damaged."))
    shown = await ended(service, await submit(service, text_of([line(), line()])))
    assert (shown["status"], shown["error"]["code"]) == ("failed", "processing_failed")
    assert "moontune verify" in shown["error"]["message"]
    assert "/a/path" not in shown["error"]["message"]


async def test_an_error_that_nobody_foresaw_does_not_end_all_batches(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.services.batches.runner.FIRST_PAUSE_SECONDS", 0.001)
    runner = service.app.state.services.batches.runner
    begin, failed = runner._begin, []

    async def fail_once() -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("can't start new thread")
        await begin()

    monkeypatch.setattr(runner, "_begin", fail_once)
    shown = await ended(service, await submit(service, text_of([line()])))
    assert (shown["status"], failed) == ("completed", [1])


async def test_a_file_that_is_made_while_a_sweep_lists_is_not_swept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = await begin(service)
    files = service.app.state.services.batches.cleanup._files
    batch_id = path.rpartition("/")[2]
    (service.data_dir / "batches" / batch_id).mkdir(parents=True, exist_ok=True)
    part = files.new_part(batch_id, 1)
    list_folder = Path.iterdir

    def list_while_it_is_made(folder: Path) -> Iterator[Path]:
        held.enter_context(files.hold(part))
        part.write_bytes(b"x")
        return list_folder(folder)

    with ExitStack() as held:
        monkeypatch.setattr(Path, "iterdir", list_while_it_is_made)
        assert files.list_idle(batch_id) == []
        monkeypatch.setattr(Path, "iterdir", list_folder)
    assert files.list_idle(batch_id) == [part]


async def test_files_of_a_batch_that_ended_beside_a_backup_go_soon_after(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.app.state.services.batches.cleanup._postponed, "_seconds", 0.01)
    with reading_all(service.data_dir):
        await ended(service, await submit(service, text_of([line()])))
        await service.app.state.services.batches.cleanup.settled()
        assert stored(service) != ["output"]
    await until(lambda: stored(service) == ["output"])


# --- lists, accounts, time


async def test_lists_are_newest_first_in_pages(service: Service) -> None:
    paths = [await submit(service, text_of([line(number)])) for number in range(5)]
    ids = [path.rpartition("/")[2] for path in paths]
    for path in paths:
        await ended(service, path)
    await begin(service)  # an upload is no batch
    assert [b["id"] for b in (await service.get(BATCH)).json()["batches"]] == ids[::-1]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await service.get(f"{BATCH}?limit=2&cursor={cursor}")).json()
        seen += [batch["id"] for batch in page["batches"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
    assert seen == ids[::-1]
    assert all(len(b["outputs"]) == 1 for b in page["batches"])


async def test_another_account_sees_nothing(service: Service) -> None:
    path = await submit(service, text_of([line()]))
    shown = await ended(service, path)
    upload, upload_id = await begin(service)
    key = await make_key(service, "other")
    async with calling_with(service, key) as other:
        assert (await other.get(BATCH)).json()["batches"] == []
        refusal(await other.get(path), 404, "batch_not_found")
        refusal(await put(other, upload, upload_id, 1, b"x"), 404, "batch_not_found")
        refusal(await complete(other, upload, upload_id, []), 404, "batch_not_found")
        abort = {"action": "mpu-abort", "uploadId": upload_id}
        refusal(await other.delete(upload, params=abort), 404, "batch_not_found")
        assert (await other.get(shown["outputs"][0]["url"])).status_code == 200  # the link opens it
    async with calling_with(service, await make_key(service, max_stored_bytes=100)) as own:
        assert (await own.get(path)).json()["id"] == shown["id"]
        refusal(await put(own, upload, upload_id, 1, b"x" * 200), 403, "forbidden")
    await flushed(service)
    used = await rows(service, "usage_hours", "account_id, generated_tokens")
    assert sum(tokens for account, tokens in used if account == "default") > 0


async def test_results_are_kept_a_week_and_uploads_a_day(service: Service) -> None:
    services = service.app.state.services
    shown = await ended(service, path := await submit(service, text_of([line()])))
    upload, upload_id = await begin(service)
    await put(service, upload, upload_id, 1, b"x")
    started = services.batches.cleanup._now()

    async def at(days: float) -> None:
        for part in (services.batches.cleanup, services.batches.results):
            part._now = lambda: started + round(days * DAY_MS)
        await services.batches.cleanup.remove_what_is_over()

    await at(0.99)
    assert (await put(service, upload, upload_id, 2, b"x")).status_code == 200
    await at(1.01)
    refusal(await put(service, upload, upload_id, 2, b"x"), 404, "batch_not_found")
    assert stored(service) == ["output"]
    await at(6.99)
    assert (await service.get(shown["outputs"][0]["url"])).status_code == 200
    await at(7.01)
    refusal(await service.get(path), 404, "batch_not_found")
    refusal(await service.get(shown["outputs"][0]["url"]), 404, "batch_not_found")
    assert (await service.get(BATCH)).json()["batches"] == []
    assert stored(service) == []
    assert await services.database.read(_count) == 0
    assert not list((service.data_dir / "batches").iterdir())


def _count(session: Any) -> int:
    return session.connection().exec_driver_sql("SELECT count(*) FROM batches").scalar_one()


async def test_a_batch_goes_on_after_an_orderly_end(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, max_batch_calls=2) as service:
        engine.is_poison = lambda command: command.request.object == "car 5" and engine.gate.clear()
        path = await submit(service, text_of(line(number) for number in range(9)))
        await until(lambda: not engine.gate.is_set())
        before = len(engine.commands("answer"))
    assert before >= 5
    engine = FakeEngine()
    async with serve(engine) as service:
        rows = await results(service, await ended(service, path))
        assert [row["id"] for row in rows] == [f"line-{number}" for number in range(9)]
        assert len(engine.commands("answer")) <= 6  # those in front of the end were committed


async def test_a_batch_is_answered_by_one_base_model(serve: Serve) -> None:
    engine = FakeEngine()
    engine.gate.clear()
    async with serve(engine) as service:
        path = await submit(service, text_of([line()]))
        await until(lambda: engine.num_running == 1)
    other = FakeEngine(dataclasses.replace(FAKE_MODEL, digest="e" * 64))
    async with serve(other) as service:
        shown = await ended(service, path)
        assert (shown["status"], shown["error"]["code"]) == ("failed", "processing_failed")
        assert other.calls == []


async def test_a_name_that_nobody_knows_until_the_model_is_loaded(serve: Serve) -> None:
    engine = FakeEngine()
    engine.state = "starting"
    async with serve(engine) as service:
        known = await submit(service, text_of([line()]), model="tiny")
        unknown = await submit(service, text_of([line()]), model="gpt-4")
        assert (await service.get(known)).json()["status"] in ("chunking", "processing")
        engine.state = "ready"
        assert (await ended(service, known))["status"] == "completed"
        shown = await ended(service, unknown)
        assert (shown["status"], shown["error"]["code"]) == ("failed", "invalid_model")


@pytest.mark.database("sqlite")
async def test_a_backup_holds_a_batch_that_goes_on_where_it_is_restored(serve: Serve) -> None:
    engine = FakeEngine()
    async with serve(engine, max_batch_calls=1, batch_chunk_lines=3) as service:
        engine.is_poison = lambda command: command.request.object == "car 4" and engine.gate.clear()
        path = await submit(service, text_of(line(number) for number in range(7)))
        await until(lambda: not engine.gate.is_set())
        assert stored(service) == ["answers", "part"]
        back_up(service.config, service.data_dir / "backup")
        restored = service.data_dir / "restored"
        restore(service.data_dir / "backup", ServerConfig(data_dir=restored))
    engine = FakeEngine()
    async with serve(engine, data_dir=restored) as service:
        rows = await results(service, await ended(service, path))
        assert [row["id"] for row in rows] == [f"line-{number}" for number in range(7)]
        assert len(engine.commands("answer")) == 4  # three were in the backup
