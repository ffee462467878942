"""Metrics of callers and of the server; http-api.md 11.1 and 11.2."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.pagination import encode_cursor
from tests.factories import ABSENT, make_group
from tests.service import Service, locs, refusal

pytestmark = pytest.mark.anyio


def path(finetune_id: str) -> str:
    return f"/v1/tuning/finetunes/{finetune_id}/metrics"


async def log(service: Service, finetune_id: str, step: Any, metrics: Any) -> Any:
    body = {"step": step, "metrics": metrics}
    sent = {key: value for key, value in body.items() if value is not ABSENT}
    return await service.post(path(finetune_id), sent)


async def listed(service: Service, finetune_id: str, **params: Any) -> list[tuple[int, str, float]]:
    answer = await service.get(path(finetune_id), params=params)
    assert answer.status_code == 200, answer.text
    return [(item["step"], item["name"], item["value"]) for item in answer.json()["metrics"]]


async def test_logging_again_replaces(service: Service) -> None:
    finetune_id = await service.create()
    await log(service, finetune_id, 0, {"eval/mAP@50": 0.25, "b": 1})
    answer = await log(service, finetune_id, 0, {"eval/mAP@50": 0.5})
    assert answer.json() == {"ok": True, "step": 0, "logged_count": 1}
    assert await listed(service, finetune_id) == [(0, "b", 1.0), (0, "eval/mAP@50", 0.5)]


async def test_the_server_logs_its_own_numbers(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id, groups=[make_group()], lr=0.5)
    metrics = {name: value for _, name, value in await listed(service, finetune_id)}
    assert metrics.pop("sys/duration_ms") >= 0
    assert metrics == {
        "sys/applied": 1.0,
        "sys/grad_norm": 1.5,
        "sys/kl": 0.01,
        "sys/lr": 0.5,
        "sys/num_tokens": 12.0,
        "sys/reward_by_skill/query": 0.75,
        "sys/reward_mean": 0.05,
        "sys/reward_std": 0.1,
        "sys/router_kl": 0.002,
    }


async def test_filters_and_pages(service: Service) -> None:
    finetune_id = await service.create()
    for step in (2, 0, 1):
        await log(service, finetune_id, step, {"b": step, "a": step})
    assert await listed(service, finetune_id, name="b") == [(0, "b", 0), (1, "b", 1), (2, "b", 2)]
    assert await listed(service, finetune_id, from_step=2) == [(2, "a", 2), (2, "b", 2)]
    assert await listed(service, finetune_id, from_step=2, name="c") == []
    page = (await service.get(path(finetune_id), params={"limit": 3})).json()
    rest = await listed(service, finetune_id, cursor=page["next_cursor"])
    assert rest == [(1, "b", 1), (2, "a", 2), (2, "b", 2)]


@pytest.mark.parametrize(
    ("step", "metrics", "loc"),
    [
        (-1, {"a": 1}, ("step",)),
        (1.5, {"a": 1}, ("step",)),
        ("1", {"a": 1}, ("step",)),
        (True, {"a": 1}, ("step",)),
        (ABSENT, {"a": 1}, ("step",)),
        (10**30, {"a": 1}, ("step",)),
        (2**53, {"a": 1}, ("step",)),
        (1, {}, ("metrics",)),
        (1, None, ("metrics",)),
        (1, ABSENT, ("metrics",)),
        (1, [1], ("metrics",)),
        (1, {f"m{i}": 1 for i in range(101)}, ("metrics",)),
        (1, {"a": "1"}, ("metrics", "a")),
        (1, {"a": None}, ("metrics", "a")),
        (1, {"a": True}, ("metrics", "a")),
        (1, {"a": 10**400}, ("metrics", "a")),
        (1, {"a b": 1}, ("metrics", "a b", "[key]")),
        (1, {"": 1}, ("metrics", "", "[key]")),
        (1, {"x" * 129: 1}, ("metrics", "x" * 128, "[key]")),
        (1, {"x" * 100_000: 1}, ("metrics", "x" * 128, "[key]")),
        (1, {"sys/kl": 1}, ("metrics", "sys/kl", "[key]")),
        (1, {"usr/kl": 1}, ("metrics", "usr/kl", "[key]")),
    ],
)
async def test_faulty_metrics_are_refused(
    service: Service, step: Any, metrics: Any, loc: tuple[str, ...]
) -> None:
    finetune_id = await service.create()
    answer = await log(service, finetune_id, step, metrics)
    refusal(answer, 422, "validation_error")
    assert locs(answer)[0] == ("body", *loc)
    assert len(answer.content) < 3000, "names may have megabytes, and are not sent back whole"
    assert await listed(service, finetune_id) == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1e999"])
async def test_values_that_are_not_finite_are_refused(service: Service, value: str) -> None:
    finetune_id = await service.create()
    text = f'{{"step": 1, "metrics": {{"a": {value}}}}}'
    answer = await service.http.post(path(finetune_id), content=text)
    assert answer.status_code == 422
    assert await listed(service, finetune_id) == []


async def test_100_metrics_at_a_large_step_are_allowed(service: Service) -> None:
    finetune_id = await service.create()
    answer = await log(service, finetune_id, 2**53 - 1, {f"m{i}": i for i in range(100)})
    assert answer.json()["logged_count"] == 100
    assert len(await listed(service, finetune_id, limit=100, from_step="9" * 30)) == 100


@pytest.mark.parametrize(
    ("params", "loc"),
    [
        ({"from_step": "x"}, "from_step"),
        ({"name": "\0"}, "name"),
        ({"cursor": "e30"}, "cursor"),
        ({"cursor": "eyJzdGVwIjoxfQ"}, "cursor"),
        ({"cursor": encode_cursor({"step": 1, "name": "\0"})}, "cursor"),
        ({"cursor": encode_cursor({"step": 1, "name": "\ud800"})}, "cursor"),
        ({"limit": "x"}, "limit"),
    ],
)
async def test_faulty_queries_are_refused(
    service: Service, params: dict[str, str], loc: str
) -> None:
    answer = await service.get(path(await service.create()), params=params)
    refusal(answer, 422, "validation_error")
    assert locs(answer) == [("query", loc)]


async def test_unknown_finetunes(service: Service) -> None:
    refusal(await log(service, "x", 1, {"a": 1}), 404, "finetune_not_found")
    refusal(await service.get(path("x")), 404, "finetune_not_found")
