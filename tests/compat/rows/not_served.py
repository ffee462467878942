"""Routes of the past and of the hosted service alone; http-api.md section 22."""

from __future__ import annotations

from tests.compat.bench import Bench
from tests.compat.case import Client, Table
from tests.compat.rows.http_tuning import create, ok, train
from tests.factories import make_sft_group
from tests.service import refusal

TABLE = Table(Client.NOT_SERVED)


def expect_no_route(bench: Bench, method: str, path: str) -> str:
    refusal(bench.http.request(method, f"/v1/tuning{path}"), 404, "route_not_found")
    return "404 `route_not_found`"


@TABLE.row("checkpoint expiry and release of late 2025", differs="saved checkpoints do not expire")
def expiry(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    path = f"/finetunes/{finetune_id}/checkpoints"
    saved = ok(bench.http.post(f"/v1/tuning{path}/save"))["checkpoint"]
    assert "expires_at_ms" not in saved
    for call in ("expire", "release"):
        expect_no_route(bench, "POST", f"{path}/1/{call}")
    return "404 `route_not_found`, and no `expires_at_ms`"


@TABLE.row("`GET .../train_logs`", differs="it was documented for one day; metrics have it")
def train_logs(bench: Bench) -> str:
    return expect_no_route(bench, "GET", f"/finetunes/{create(bench)}/train_logs")


@TABLE.row("`.../variants` of adapters", differs="save checkpoints instead")
def variants(bench: Bench) -> str:
    return expect_no_route(bench, "GET", f"/finetunes/{create(bench)}/variants")


@TABLE.row("`/v1/finetune` and `/v1/datasets` of the VLA form", differs="another product's form")
def vla(bench: Bench) -> str:
    for path in ("/v1/finetune", "/v1/datasets"):
        assert bench.http.post(path, json={}).status_code == 404
    return "404"


@TABLE.row("telemetry, hubs, billing", differs="nothing is told to anybody")
def hosted_only(bench: Bench) -> str:
    for path in ("/telemetry", "/hub", "/billing", "/usage/billing"):
        expect_no_route(bench, "POST", path)
    return "404 `route_not_found`"
