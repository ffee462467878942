"""/metrics: what is counted, and who may read it; http-api.md section 1."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.errors import StateDamaged
from contract.stats import Distribution, EngineStats, Sample
from tests.api.conftest import Serve
from tests.factories import make_request
from tests.service import Service, refusal, until

ONE_DATABASE_IS_ENOUGH = True  # This is about counters.

pytestmark = pytest.mark.anyio

SECRET = "s3cret-prompt"
Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(service: Service) -> Values:
    """Every sample by its name and labels."""
    answer = await service.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values[name, frozenset(labels.items())]


async def test_requests_are_counted_by_the_pattern_of_their_address(service: Service) -> None:
    finetune_id = await service.create()
    for address in (finetune_id, finetune_id, "01ABC"):
        await service.get(f"/v1/tuning/finetunes/{address}")
    await service.get(f"/{SECRET}")
    await service.delete("/healthz")
    values = await scrape(service)
    route = "/v1/tuning/finetunes/{finetune_id}"
    requests = "moontune_http_requests_total"
    assert value(values, requests, route=route, status="200") == 2
    assert value(values, requests, route=route, status="404") == 1
    assert value(values, requests, route="/v1/tuning/finetunes", status="200") == 1
    assert value(values, requests, route="none", status="404") == 1
    assert value(values, requests, route="/healthz", status="405") == 1
    assert value(values, "moontune_http_seconds_count", route=route) == 3


async def test_calls_are_counted_by_their_class_of_work(serve: Serve) -> None:
    async with serve(max_engine_calls=1) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        calls = [asyncio.create_task(service.roll(finetune_id)) for _ in range(3)]
        calls.append(asyncio.create_task(service.train(finetune_id)))
        await until(lambda: service.dispatcher.num_waiting == 2 and service.engine.num_running == 2)
        values = await scrape(service)
        assert value(values, "moontune_calls_waiting", work_class="rollouts") == 2
        assert value(values, "moontune_calls_waiting", work_class="training") == 0
        assert value(values, "moontune_calls_running", work_class="rollouts") == 1
        assert value(values, "moontune_calls_running", work_class="training") == 1
        assert value(values, "moontune_calls_running", work_class="inference") == 0
        assert value(values, "moontune_queue_seconds_count", work_class="rollouts") == 1
        service.engine.gate.set()
        await asyncio.gather(*calls)
        values = await scrape(service)
        assert value(values, "moontune_queue_seconds_count", work_class="rollouts") == 3
        assert value(values, "moontune_queue_seconds_count", work_class="training") == 1
        assert value(values, "moontune_calls_running", work_class="rollouts") == 0


async def test_steps_are_counted_by_finetune_and_by_what_came_of_them(service: Service) -> None:
    finetune_id = await service.create()
    for lr in (0.1, 0.1, 0.0):
        assert (await service.train(finetune_id, lr=lr)).status_code == 200
    values = await scrape(service)
    steps = "moontune_steps_total"
    assert value(values, steps, finetune_id=finetune_id, applied="true") == 2
    assert value(values, steps, finetune_id=finetune_id, applied="false") == 1


async def test_decoded_pictures_are_counted(service: Service) -> None:
    await service.post("/v1/detect", make_request())
    values = await scrape(service)
    assert value(values, "moontune_picture_cache_misses_total") == 1
    assert value(values, "moontune_picture_cache_hits_total") == 0


async def test_readiness_and_worker_starts_are_shown(service: Service) -> None:
    assert value(await scrape(service), "moontune_ready") == 1
    service.engine.die()
    service.engine.state = "unavailable"
    values = await scrape(service)
    assert value(values, "moontune_ready") == 0
    assert value(values, "moontune_worker_starts_total") == 2


async def test_calls_that_met_a_damaged_file_are_counted(service: Service) -> None:
    finetune_id = await service.create()
    service.engine.faults.append(StateDamaged("A file is gone."))
    assert (await service.roll(finetune_id)).status_code == 409
    assert (await service.train(finetune_id, expected_step=7)).status_code == 409  # another code
    metric = "moontune_state_damaged_total"
    counted = {labels: n for (name, labels), n in (await scrape(service)).items() if name == metric}
    assert list(counted.values()) == [1]


async def test_what_the_worker_counted_is_shown_while_there_is_one(service: Service) -> None:
    service.engine.counted = EngineStats(
        samples=(
            Sample(
                name="moontune_sampled_tokens_total", labels=("rollouts", "01ABC"), value=12_345.0
            ),
        ),
        distributions=(
            Distribution(
                name="moontune_decode_rows", labels=(), counts=(0, 2, *[0] * 7, 1), total=504.0
            ),
        ),
    )
    values = await scrape(service)
    tokens = "moontune_sampled_tokens_total"
    assert value(values, tokens, work_class="rollouts", finetune_id="01ABC") == 12_345
    assert value(values, "moontune_decode_rows_bucket", le="2.0") == 2
    assert value(values, "moontune_decode_rows_count") == 3
    service.engine.state = "unavailable"
    assert not any(name == tokens for name, _ in await scrape(service))


async def test_two_applications_count_apart(serve: Serve) -> None:
    async with serve() as one, serve() as other:
        await one.get("/readyz")
        here, there = await scrape(one), await scrape(other)
    counted = ("moontune_http_requests_total", frozenset({("route", "/readyz"), ("status", "200")}))
    assert counted in here
    assert counted not in there


async def test_nothing_that_was_asked_is_shown(serve: Serve) -> None:
    async with serve(api_key="s3cret-key") as service:
        headers = {"X-Moondream-Auth": "s3cret-key"}
        body = {"finetune_id": "x", "request": make_request("query", question=SECRET)}
        await service.post("/v1/tuning/rollouts", body, headers=headers)
        await service.post("/v1/query", {"question": SECRET}, headers=headers)
        await service.get(f"/v1/files/{SECRET}?x={SECRET}")
        text = (await service.get("/metrics")).text
        assert "moontune_http_requests_total" in text
        assert "s3cret" not in text


# --- who may read


def from_peer(service: Service, peer: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=service.app, client=(peer, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("options", [{}, {"api_key": "secret"}], ids=["open", "with a key"])
async def test_this_machine_needs_no_key(serve: Serve, options: Any, peer: str) -> None:
    async with serve(**options) as service, from_peer(service, peer) as http:
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize("peer", ["192.168.1.5", "2001:db8::1", "testclient", "::ffff:10.0.0.1"])
@pytest.mark.parametrize("options", [{}, {"api_key": "secret"}], ids=["open", "with a key"])
async def test_others_are_refused_without_one(serve: Serve, options: Any, peer: str) -> None:
    async with serve(**options) as service, from_peer(service, peer) as http:
        refusal(await http.get("/metrics"), 403, "forbidden")


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"]
)
async def test_a_proxy_on_this_machine_does_not_open_it(serve: Serve, header: str) -> None:
    async with serve(api_key="secret", trusted_proxies="127.0.0.1") as service:
        refusal(await service.get("/metrics", headers={header: "127.0.0.1"}), 403, "forbidden")
        headers = {header: "127.0.0.1", "Authorization": "Bearer secret"}
        assert (await service.get("/metrics", headers=headers)).status_code == 200


async def test_who_has_the_key_may_read_from_anywhere(serve: Serve) -> None:
    async with serve(api_key="secret") as service, from_peer(service, "10.0.0.1") as http:
        answer = await http.get("/metrics", headers={"X-Moondream-Auth": "secret"})
        assert answer.status_code == 200


@pytest.mark.parametrize("peer", ["10.0.0.1", "127.0.0.1"])
async def test_a_wrong_key_is_told(serve: Serve, peer: str) -> None:
    async with serve(api_key="secret") as service, from_peer(service, peer) as http:
        answer = await http.get("/metrics", headers={"Authorization": "Bearer wrong"})
        refusal(answer, 401, "invalid_api_key")


async def test_in_open_mode_a_key_from_elsewhere_opens_nothing(service: Service) -> None:
    async with from_peer(service, "10.0.0.1") as http:
        answer = await http.get("/metrics", headers={"Authorization": "Bearer any"})
        refusal(answer, 403, "forbidden")


async def test_what_calls_share_and_wait_for_is_told(serve: Serve) -> None:
    async with serve(
        max_engine_calls=1, max_queued_bytes=1 << 20, rollouts_queue_seconds=0.3
    ) as service:
        finetune_id = await service.create()
        service.engine.gate.clear()
        large = service.roll(finetune_id, x="y" * 900_000)
        calls = [asyncio.create_task(large)]
        await until(lambda: service.engine.num_running == 1)
        calls.append(asyncio.create_task(service.roll(finetune_id, x="y" * 200_000)))
        calls.append(asyncio.create_task(service.roll(finetune_id)))
        await until(lambda: service.dispatcher.num_waiting == 1)
        values = await scrape(service)
        assert value(values, "moontune_bytes_limit", what="bodies") == 1 << 20
        assert 900_000 < value(values, "moontune_bytes_held", what="bodies") < 901_000
        assert 900_000 < value(values, "moontune_bytes_held", what="body_memory") < 902_000
        assert value(values, "moontune_bytes_held", what="json") > 2 * 900_000
        assert value(values, "moontune_bytes_held", what="answer_pixels") == 8 * 6 * 3
        assert value(values, "moontune_waiting_for_bytes", what="bodies") == 1
        answers = await asyncio.gather(*calls[1:])
        assert [answer.status_code for answer in answers] == [503, 503]
        service.engine.gate.set()
        assert (await calls[0]).status_code == 200
        values = await scrape(service)
        refusals = "moontune_overload_refusals_total"
        assert value(values, refusals, route="/v1/tuning/rollouts", code="overloaded") == 2
        assert value(values, "moontune_bytes_held", what="bodies") == 0
        assert value(values, "moontune_predicted_wait_seconds", work_class="rollouts") == 0
