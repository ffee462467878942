"""What was used and what was refused, as the account reads it; http-api.md 11.3."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from server.api.pagination import encode_cursor
from server.cli import app as command_line
from server.db import refusals as refusals_table
from server.domain.errors import OverloadedError
from server.domain.usage import DAY_MS, HOUR_MS
from server.services import books
from tests.accounts import calling_with, flushed, make_key, rows, services_of
from tests.api.conftest import Serve
from tests.factories import make_group, make_image_url, make_request
from tests.service import Service, locs, refusal

pytestmark = pytest.mark.anyio

USAGE, REFUSALS, FINETUNES = "/v1/tuning/usage", "/v1/tuning/refusals", "/v1/tuning/finetunes"
COUNTS = (
    "requests", "images", "prompt_tokens", "generated_tokens", "training_tokens", "steps",
    "stored_bytes",
)  # fmt: skip
START_MS = 20_000 * DAY_MS + 5 * HOUR_MS


def set_clock(service: Service, at_ms: int) -> None:
    services_of(service).books._stamp = lambda: at_ms


async def used(service: Service, query: str = "") -> list[dict[str, Any]]:
    answer = await service.get(f"{USAGE}?limit=100&{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]


def counts(entry: dict[str, Any]) -> tuple[int, ...]:
    return tuple(entry[name] for name in COUNTS)


async def test_everything_that_a_call_uses_is_counted_once(service: Service) -> None:
    set_clock(service, START_MS + 5)
    key = await make_key(service, "team")
    other = await make_key(service, "others")
    async with calling_with(service, key) as caller, calling_with(service, other) as stranger:
        finetune_id = await caller.create()
        await caller.roll(finetune_id, num_rollouts=4)
        groups = [make_group(), {**make_group(), "request": make_request("detect")}]
        for _ in range(2):
            answer = await caller.train(finetune_id, groups=groups, lr=0.1)
            assert answer.status_code == 200, answer.text
        await caller.train(finetune_id, lr=0)  # changes nothing, and is a step
        await caller.save(finetune_id)
        model = f"moondream3-preview/{finetune_id}@3"
        image = make_image_url()
        await caller.post("/v1/query", {"question": "?", "image_url": image, "model": model})
        await caller.post("/v1/query", {"question": "?"})
        refusal(await caller.roll("x"), 404, "finetune_not_found")
        (hour,) = await used(caller, "by=hour")
        assert list(hour) == ["start_at_ms", *COUNTS[:6], "compute_seconds", "stored_bytes"]
        assert hour["start_at_ms"] == START_MS
        by_finetune = await used(caller, "by=finetune")
        assert [entry.get("finetune_id") for entry in by_finetune] == [None, finetune_id]
        stored = by_finetune[1]["stored_bytes"]
        assert stored > 0
        # One picture each: rollouts, three steps (equal ones count once), the query of the model.
        assert counts(hour) == (9, 5, 3 * 740, 4 * 3 + 3 + 3, 3 * 12, 3, stored)
        # Create, the base model, what was refused, a look at the usage; then what named it.
        assert counts(by_finetune[0]) == (4, 0, 740, 3, 0, 0, 0)
        assert counts(by_finetune[1]) == (6, 5, 2 * 740, 15, 36, 3, stored)
        (by_key,) = await used(caller, "by=key")
        assert [(by_key["key_id"],)] == await rows(
            service, "api_keys WHERE account_id = 'team'", "id"
        )
        assert counts(by_key) == (11, 5, 3 * 740, 18, 36, 3, 0)
        assert await used(stranger) == []


async def test_hours_become_days_and_ranges_hold(service: Service) -> None:
    for hour in (0, 1, 1, 20, 48):
        set_clock(service, START_MS + hour * HOUR_MS + 7)
        await service.get(FINETUNES)
    set_clock(service, START_MS + 100 * HOUR_MS)
    to = f"to_ms={START_MS + 49 * HOUR_MS}"

    async def requests(query: str) -> list[tuple[int, int]]:
        return [
            ((entry["start_at_ms"] - START_MS) // HOUR_MS, entry["requests"])
            for entry in await used(service, f"{to}&{query}")
        ]

    assert await requests("") == [(0, 1), (1, 2), (20, 1), (48, 1)]
    assert await requests("by=day") == [(-5, 3), (19, 1), (43, 1)]
    assert await requests(f"from_ms={START_MS + HOUR_MS + 999}") == [(1, 2), (20, 1), (48, 1)]
    assert await requests("by=finetune") == [(0, 5)]
    for by, num_pages in (("hour", 4), ("day", 3)):
        seen, cursor = [], ""
        for _ in range(num_pages):
            page = (await service.get(f"{USAGE}?{to}&by={by}&limit=1&cursor={cursor}")).json()
            seen += [entry["requests"] for entry in page["usage"]]
            cursor = page["next_cursor"] or ""
        assert (len(seen), sum(seen), page["has_more"]) == (num_pages, 5, False)
    for query, loc in (("by=week", "by"), ("from_ms=x", "from_ms"), ("to_ms=1.5", "to_ms"),
                       ("cursor=x", "cursor"), (f"cursor={encode_cursor({'id': 'x'})}", "cursor"),
                       (f"by=key&cursor={encode_cursor({'start': 1})}", "cursor")):  # fmt: skip
        answer = await service.get(f"{USAGE}?{query}")
        refusal(answer, 422, "validation_error")
        assert locs(answer) == [("query", loc)]


async def test_both_lists_are_csv_if_that_is_asked_for(service: Service) -> None:
    await service.create()
    refusal(await service.get(f"{FINETUNES}/=1+1"), 404, "finetune_not_found")
    refusal(await service.get("/v1/tuning/usage?by=x"), 422, "validation_error")
    for path, name in ((USAGE, "usage"), (REFUSALS, "refusals")):
        answer = await service.get(f"{path}?limit=1", headers={"Accept": "text/csv;q=1, */*"})
        assert answer.headers["content-type"].startswith("text/csv")
        table = list(csv.DictReader(io.StringIO(answer.text)))
        listed = (await service.get(f"{path}?limit=1")).json()[name]
        assert len(table) == 1
        assert set(listed[0]) <= set(table[0])
    assert answer.headers["x-next-cursor"]
    assert table[0]["status"] == "422"


async def test_what_is_counted_outlives_the_process_and_costs_no_call_a_write(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as service:
        database, writes = services_of(service).database, []
        write = database.write

        async def note(work: Any, *args: Any, **kwargs: Any) -> Any:
            writes.append(work)
            return await write(work, *args, **kwargs)

        monkeypatch.setattr(database, "write", note)
        for _ in range(50):
            await service.get(FINETUNES)
            refusal(await service.get(f"{FINETUNES}/x"), 404, "finetune_not_found")
        assert writes == []
    async with serve() as service:
        assert (await used(service))[0]["requests"] == 100
        assert len((await service.get(f"{REFUSALS}?limit=100")).json()["refusals"]) == 50


async def test_it_is_written_by_and_by(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "FLUSH_SECONDS", 0.01)
    await service.get(FINETUNES)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if await rows(service, "usage_hours"):
            return
    raise AssertionError("it was not written")


async def test_how_much_is_stored_is_looked_at_after_the_last_call(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune_id = await service.create()
    await flushed(service)
    assert await rows(service, "usage_hours", "stored_bytes") == [(0,)]
    await service.train(finetune_id)
    await flushed(service)
    assert (0,) in await rows(service, "usage_hours WHERE finetune_id = ''", "stored_bytes")
    monkeypatch.setattr(books, "STORED_BYTES_SECONDS", 0.0)
    await flushed(service)
    ((stored,),) = await rows(service, "usage_hours WHERE finetune_id = ''", "stored_bytes")
    assert stored == (await used(service, "by=finetune"))[1]["stored_bytes"] > 0


async def test_a_database_that_is_busy_loses_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any, **__: Any) -> None:
        raise OverloadedError("busy")

    await service.get(f"{FINETUNES}/x")
    with monkeypatch.context() as patched:
        patched.setattr(services_of(service).database, "write", busy)
        await flushed(service)
        await service.get(f"{FINETUNES}/y")
        assert (await service.get(USAGE)).json()["usage"] == []
    listed = (await service.get(REFUSALS)).json()["refusals"]
    assert [entry["path"][-1] for entry in listed] == ["y", "x"]
    assert (await used(service))[0]["requests"] == 4


async def test_what_is_being_written_when_the_service_ends_is_written(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "FLUSH_SECONDS", 0.0)
    async with serve() as service:
        database, begun = services_of(service).database, asyncio.Event()
        read = database.read

        async def slowly(work: Any, *args: Any, **kwargs: Any) -> Any:
            if work is books._sizes:
                begun.set()
                await asyncio.sleep(0.05)
            return await read(work, *args, **kwargs)

        monkeypatch.setattr(database, "read", slowly)
        await service.get(f"{FINETUNES}/x")
        await begun.wait()
    async with serve() as service:
        assert (await used(service))[0]["requests"] == 1
        assert len((await service.get(REFUSALS)).json()["refusals"]) == 1


async def test_steps_are_counted_with_their_commit(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the answer, nothing that was flushed now and then is there; steps are."""
    finetune_id = await service.create()
    await flushed(service)
    await service.train(finetune_id)
    assert (await rows(service, "usage_hours", "steps, requests, training_tokens"))[-1] == (
        1, 0, 12,
    )  # fmt: skip


async def test_refusals_are_told_with_what_the_sdk_hides(service: Service) -> None:
    mine, theirs = await make_key(service, "team"), await make_key(service, "others")
    async with calling_with(service, mine) as caller, calling_with(service, theirs) as stranger:
        finetune_id = await caller.create()
        await caller.train(finetune_id, lr="high")
        names = {"step": 1, "metrics": {"\x1b[31m": 1}}
        await caller.post(f"{FINETUNES}/{finetune_id}/metrics", names)
        await caller.http.post("/v1/tuning/rollouts", content=b"{")
        await caller.get(f"{FINETUNES}/{finetune_id}/checkpoints/%00%0a%1b[31m/download")
        await caller.post("/v1/query", {"question": "?", "model": f"m/{finetune_id.lower()}@7"})
        await caller.http.put(FINETUNES)
        service.engine.faults.append(ZeroDivisionError("secret"))
        await caller.roll(finetune_id)
        listed = (await caller.get(REFUSALS)).json()
        assert [(entry["status"], entry["code"], entry.get("finetune_id")) for entry in
                listed["refusals"]] == [
            (500, "internal_error", finetune_id),
            (404, "checkpoint_not_found", finetune_id),
            (404, "checkpoint_not_found", finetune_id),
            (422, "invalid_json", None),
            (422, "validation_error", finetune_id),
            (422, "validation_error", finetune_id),
        ]  # fmt: skip
        assert list(listed["refusals"][0])[:7] == [
            "at_ms", "request_id", "method", "path", "status", "code", "message",
        ]  # fmt: skip
        assert "lr" in listed["refusals"][-1]["message"]
        for entry in listed["refusals"]:
            assert (entry["path"] + entry["message"]).isprintable()
        assert "secret" not in json.dumps(listed)
        assert (await stranger.get(REFUSALS)).json() == {
            "refusals": [], "next_cursor": None, "has_more": False,
        }  # fmt: skip
        page = (await caller.get(f"{REFUSALS}?limit=2")).json()
        rest = (await caller.get(f"{REFUSALS}?limit=9&cursor={page['next_cursor']}")).json()
        assert page["refusals"] + rest["refusals"] == listed["refusals"]
        one = (await caller.get(f"{REFUSALS}?finetune_id={finetune_id}")).json()["refusals"]
        assert len(one) == 5
        assert (await caller.get(f"{REFUSALS}?finetune_id=odd")).json()["refusals"] == []


async def test_only_so_many_refusals_are_kept_and_a_flood_is_written_in_one_piece(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals_table, "MAX_REFUSALS", 20)
    other = await make_key(service, "other")
    key = await make_key(service)
    async with calling_with(service, other) as caller:
        await caller.get(f"{FINETUNES}/x")
    async with calling_with(service, key) as caller:
        writes = []
        monkeypatch.setattr(refusals_table, "insert", _noting(refusals_table.insert, writes))
        for number in range(50):
            await caller.get(f"{FINETUNES}/{number}")
        assert not writes
        await flushed(service)
        assert len(writes) == 2  # one for each account
        for number in range(50, 55):
            await caller.get(f"{FINETUNES}/{number}")
        listed = (await caller.get(f"{REFUSALS}?limit=100")).json()["refusals"]
        assert [int(entry["path"].rpartition("/")[2]) for entry in listed] == [*range(54, 34, -1)]
    assert len(await rows(service, "refusals")) == 21


def _noting(call: Any, noted: list[Any]) -> Any:
    def note(*args: Any) -> Any:
        noted.append(args)
        return call(*args)

    return note


@pytest.mark.database("sqlite")
async def test_the_commands_show_the_same(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id, lr="high")
    await service.train(finetune_id)
    await flushed(service)
    run, data = CliRunner().invoke, ["--data-dir", str(service.data_dir)]
    told = run(command_line, ["errors", *data])
    assert told.exit_code == 0
    assert "422 validation_error  POST /v1/tuning/train_step  lr: " in told.stdout
    listed = json.loads(run(command_line, ["errors", "--json", *data]).stdout)["refusals"]
    assert listed == (await service.get(REFUSALS)).json()["refusals"]
    only = ["errors", "--finetune", finetune_id.lower(), "--json", *data]
    assert json.loads(run(command_line, only).stdout)["refusals"] == listed
    told = run(command_line, ["usage", "--by", "finetune", *data])
    assert [line.split()[:2] for line in told.stdout.splitlines()] == [
        ["finetune", "requests"],
        ["-", "2"],
        [finetune_id, "1"],
    ]
    summed = json.loads(run(command_line, ["usage", "--json", *data]).stdout)["usage"]
    assert summed[0]["steps"] == 1
    assert json.loads(run(command_line, ["usage", "--account", "x", "--json", *data]).stdout) == {
        "usage": []
    }
