"""S2: what is another account's answers like what never was, and looking changes nothing.

Every call of the OpenAPI document has an entry here; a route without one fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from server.domain.caller import Scope
from tests.accounts import calling_with, flushed, make_key, rows, services_of
from tests.api.conftest import Serve
from tests.factories import make_group, make_image_url, make_request, make_sft_group
from tests.service import Service, refusal

pytestmark = pytest.mark.anyio

TUNING = "/v1/tuning"
UNKNOWN = "01H" + "Z" * 23
ONE = f"{TUNING}/finetunes/{{finetune_id}}"
OLD = f"{TUNING}/adapters/{{adapter_id}}"
TABLES = (
    "finetunes", "train_steps", "train_requests", "checkpoints", "metrics", "idempotency_keys",
    "api_keys",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call that names a finetune: by its path, by its body, or by its query string."""

    body: Callable[[str], Any] = lambda _id: None
    query: Callable[[str], str] = lambda _id: ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NoNames:
    """A route on which nothing of an account can be named, and why that is so."""

    reason: str
    shows: str = ""
    """The list in its answer, which must hold nothing of others."""


def in_model(skill: str) -> Call:
    """Inference on a saved checkpoint."""

    def body(finetune_id: str) -> dict[str, Any]:
        request = make_request(skill)
        request.pop("skill")
        return {**request, "model": f"moondream3-preview/{finetune_id}@1"}

    return Call(body=body)


CALLS: dict[tuple[str, str], list[Call] | NoNames] = {
    ("GET", f"{TUNING}/finetunes"): NoNames(reason="lists one's own", shows="finetunes"),
    ("POST", f"{TUNING}/finetunes"): [
        Call(body=lambda i: {"name": "copy", "rank": 8, "from_checkpoint": f"{i}@1"}),
        Call(
            body=lambda i: {"name": "copy", "rank": 8, "from_checkpoint": f"x/{i.lower()}@1"},
            headers={"Idempotency-Key": "k"},
        ),
    ],
    ("GET", ONE): [Call()],
    ("DELETE", ONE): [Call()],
    ("POST", f"{TUNING}/rollouts"): [
        Call(body=lambda i: {"finetune_id": i, "request": make_request()}),
        Call(body=lambda i: {"adapter_id": i, "request": make_request()}),
    ],
    ("POST", f"{TUNING}/train_step"): [
        Call(body=lambda i: {"finetune_id": i, "groups": [make_sft_group()]}),
        Call(body=lambda i: {"adapter_id": i, "groups": [make_sft_group()]}),
        Call(body=lambda i: {"finetune_id": i, "groups": [make_group()], "expected_step": 1}),
        Call(body=lambda i: {"finetune_id": i, "groups": [make_group()], "idempotency_key": "k"}),
    ],
    ("POST", f"{ONE}/checkpoints/save"): [Call(), Call(headers={"Idempotency-Key": "k"})],
    ("GET", f"{ONE}/checkpoints"): [Call(), Call(query=lambda _: "limit=1")],
    ("DELETE", f"{ONE}/checkpoints/{{step}}"): [Call()],
    ("GET", f"{ONE}/checkpoints/{{step}}/download"): [Call()],
    ("POST", f"{ONE}/metrics"): [Call(body=lambda _: {"step": 1, "metrics": {"a": 1.0}})],
    ("GET", f"{ONE}/metrics"): [Call(), Call(query=lambda _: "name=sys/lr&from_step=0")],
    ("POST", "/v1/query"): [in_model("query")],
    ("POST", "/v1/caption"): [in_model("caption")],
    ("POST", "/v1/point"): [in_model("point")],
    ("POST", "/v1/detect"): [in_model("detect")],
    ("POST", "/v1/segment"): [in_model("segment")],
    ("GET", "/v1/batch"): NoNames(reason="lists one's own", shows="batches"),
    ("POST", "/v1/batch"): NoNames(reason="makes a new one"),
    **{
        (method, "/v1/batch/{file_id}"): NoNames(reason="of an id of its own: test_batch.py")
        for method in ("GET", "PUT", "POST", "DELETE")
    },
    ("GET", f"{TUNING}/adapters"): NoNames(reason="lists one's own", shows="adapters"),
    ("POST", f"{TUNING}/adapters"): [
        Call(body=lambda i: {"name": "copy", "rank": 8, "from_checkpoint": f"{i}/chk_001"}),
    ],
    ("GET", OLD): [Call()],
    ("DELETE", OLD): [Call()],
    ("POST", f"{OLD}/checkpoint"): [Call(), Call(headers={"Idempotency-Key": "k"})],
    ("GET", f"{OLD}/checkpoints"): [Call(), Call(query=lambda _: "limit=1")],
    ("DELETE", f"{OLD}/checkpoints/{{checkpoint_id}}"): [Call()],
    ("POST", "/v1/chat/completions"): [
        Call(
            body=lambda i: {
                "model": f"moondream3-preview/{i}@1",
                "messages": [{"role": "user", "content": "?"}],
            }
        )
    ],
    ("GET", "/v1/models"): NoNames(reason="lists one's own", shows="data"),
    ("GET", "/v1/models/{model_id}"): [Call()],
    ("GET", f"{TUNING}/usage"): NoNames(reason="sums one's own", shows="usage"),
    ("GET", f"{TUNING}/refusals"): NoNames(reason="one's own, with the ids that one named"),
    ("GET", "/v1/files/{token}"): NoNames(reason="a signed link, for whoever has it"),
    ("GET", "/healthz"): NoNames(reason="of the process"),
    ("GET", "/readyz"): NoNames(reason="of the process"),
    ("GET", "/metrics"): NoNames(reason="for who runs the server"),
}


def every_operation(service: Service) -> set[tuple[str, str]]:
    paths = service.app.openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


async def ask(
    caller: Service, route: tuple[str, str], call: Call, finetune_id: str
) -> tuple[int, Any]:
    """The status and what a caller can learn from the answer."""
    method, path = route
    there = (
        path.replace("{finetune_id}", finetune_id)
        .replace("{adapter_id}", finetune_id)
        .replace("{step}", "1")
    )
    there = there.replace("{checkpoint_id}", "chk_001")
    there = there.replace("{model_id}", f"moondream3-preview/{finetune_id}@1")
    answer = await caller.http.request(
        method,
        f"{there}?{call.query(finetune_id)}",
        json=call.body(finetune_id),
        headers={"X-Request-Id": "same", **call.headers},
    )
    text = answer.text.replace(finetune_id, "ID").replace(finetune_id.lower(), "ID")
    return answer.status_code, json.loads(text)


async def things(service: Service) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that belongs to accounts, but when keys were used."""
    await service.settled()
    found = {table: await rows(service, table) for table in TABLES if table != "api_keys"}
    return {**found, "api_keys": await rows(service, "api_keys", "id, account_id, revoked_at_ms")}


async def test_the_things_of_other_accounts_are_as_if_they_never_were(service: Service) -> None:
    assert set(CALLS) == every_operation(service)
    async with AsyncExitStack() as stack:

        async def account(name: str, scope: Scope = Scope.FULL) -> Service:
            key = await make_key(service, name, scope)
            return await stack.enter_async_context(calling_with(service, key))

        owner, reader = await account("owner"), await account("owner", Scope.READ)
        strangers = [await account("second"), await account("third")]
        own_id = await owner.create("mine")
        assert (await owner.train(own_id)).status_code == 200
        assert (await owner.save(own_id)).status_code == 200
        await strangers[0].create("mine")  # names of others do not count
        before, num_calls = await things(service), len(service.engine.calls)
        num_files = len(service.state_files(own_id))
        for route, calls in CALLS.items():
            if isinstance(calls, NoNames):
                continue
            for call in calls:
                for stranger in strangers:
                    foreign = await ask(stranger, route, call, own_id)
                    assert foreign == await ask(stranger, route, call, UNKNOWN), route
                    assert foreign[0] == 404, (route, foreign)
                status, _ = await ask(reader, route, call, own_id)
                assert status == (200 if route[0] == "GET" else 403), (route, status)
        # The reader made the exchange file of the checkpoint, which it may download.
        assert service.engine.verbs()[num_calls:] == ["export_checkpoint"]
        exported = ("exchange_path", "exchange_digest", "exchange_num_bytes", "exchange_manifest")
        after = await things(service)
        assert await rows(service, "checkpoints", exported[0]) != [(None,)]
        after["checkpoints"] = before["checkpoints"]
        assert after == before
        assert len(service.state_files(own_id)) == num_files + 1
        for route, calls in CALLS.items():
            if isinstance(calls, NoNames) and calls.shows:
                listed = (await strangers[1].get(route[1])).json()
                assert own_id not in json.dumps(listed)
        assert (await strangers[1].get(f"{TUNING}/finetunes")).json()["finetunes"] == []
        # And they are there all the same, last of all to be deleted.
        order = sorted(CALLS, key=lambda route: (route[0] == "DELETE", len(route[1]) < 40))
        for route in order:
            calls = CALLS[route]
            for call in [] if isinstance(calls, NoNames) else calls:
                status, _ = await ask(owner, route, call, own_id)
                assert status == 200 or call.headers or "expected" in str(call.body("x")), route
        refusal(await owner.get(f"{TUNING}/finetunes/{own_id}"), 404, "finetune_not_found")


async def test_a_link_ends_with_its_finetune_whoever_has_it(service: Service) -> None:
    async with calling_with(service, await make_key(service, "owner")) as owner:
        finetune_id = await owner.create()
        await owner.train(finetune_id)
        await owner.save(finetune_id)
        link = (await owner.get(f"{TUNING}/finetunes/{finetune_id}/checkpoints/1/download")).json()
        async with calling_with(service, "") as nobody:
            assert (await nobody.get(link["url"])).status_code == 200
            await owner.delete(f"{TUNING}/finetunes/{finetune_id}")
            refusal(await nobody.get(link["url"]), 404, "checkpoint_not_found")


async def test_equal_bodies_of_two_accounts_are_two_calls(serve: Serve) -> None:
    """Resends, lingering rollouts and explicit keys are known by account."""
    async with serve() as service:
        keys = [await make_key(service, name) for name in ("one", "two")]
        async with calling_with(service, keys[0]) as one, calling_with(service, keys[1]) as two:
            headers = {"Idempotency-Key": "k"}
            body = {"name": "same", "rank": 8}
            made = [
                (await who.post(f"{TUNING}/finetunes", body, headers=headers)).json()
                for who in (one, two, one)
            ]
            assert made[0] == made[2] != made[1]
            accounts = [row[0] for row in await rows(service, "idempotency_keys", "account_id")]
            assert accounts == ["one", "two"]
            await one.roll(made[0]["finetune_id"])
            url = make_image_url()
            await one.post("/v1/query", {"question": "?", "image_url": url})
            await flushed(service)
            assert {row[0] for row in await rows(service, "usage_hours", "account_id")} == {
                "one",
                "two",
            }
            assert services_of(service).dispatcher.num_running == 0
