"""The documented HTTP forms of tuning, as curl, requests and typed clients send them."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from PIL import Image

from tests.compat.bench import KEY, Bench
from tests.compat.case import Client, Table
from tests.compat.scripts.pictures import boxed, photo
from tests.factories import (
    ABSENT,
    make_group,
    make_image_url,
    make_request,
    make_rollout,
    make_sft_group,
)
from tests.service import refusal

TABLE = Table(Client.HTTP_TUNING)

BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.5, "y_max": 0.6}


def encoded(image: Image.Image) -> str:
    """A data URL, as the SDK makes it."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def ok(answer: httpx.Response) -> dict[str, Any]:
    """The body of a success, whose status is 200 and no other."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def create(bench: Bench) -> str:
    body = {"name": bench.new_name(), "rank": 8}
    return ok(bench.http.post("/v1/tuning/finetunes", json=body))["finetune_id"]


def roll(bench: Bench, finetune_id: str, skill: str = "detect", **body: Any) -> dict[str, Any]:
    request = body.pop("request", None) or make_request(skill)
    body = {"finetune_id": finetune_id, "request": request, **body}
    return ok(bench.http.post("/v1/tuning/rollouts", json=body))


def train(bench: Bench, finetune_id: str, *groups: Any, **body: Any) -> httpx.Response:
    body = {"finetune_id": finetune_id, "groups": list(groups), **body}
    return bench.http.post("/v1/tuning/train_step", json=body)


@TABLE.row("`curl -d` without a JSON `Content-Type`: create, list, fetch, save, delete")
def curl(bench: Bench) -> str:
    tuning = bench.live.tuning
    auth = ("-H", "X-Moondream-Auth: any")
    body = json.dumps({"name": bench.new_name(), "rank": 8})
    made = json.loads(bench.curl(*auth, "-d", body, f"{tuning}/finetunes"))["finetune_id"]
    assert "finetunes" in json.loads(bench.curl(*auth, f"{tuning}/finetunes?limit=1"))
    one = json.loads(bench.curl(*auth, f"{tuning}/finetunes/{made}"))["finetune"]
    assert one["finetune_id"] == made
    step = json.dumps({"finetune_id": made, "groups": [make_sft_group()]})
    assert json.loads(bench.curl(*auth, "-d", step, f"{tuning}/train_step"))["step"] == 1
    saved = bench.curl(*auth, "-X", "POST", f"{tuning}/finetunes/{made}/checkpoints/save")
    assert json.loads(saved)["checkpoint"]["step"] == 1
    gone = bench.curl(*auth, "-X", "DELETE", f"{tuning}/finetunes/{made}")
    assert json.loads(gone) == {"ok": True}
    return "all six"


@TABLE.row("`POST /train_step` without any `Content-Type`, chunked")
def no_content_type(bench: Bench) -> str:
    body = json.dumps({"finetune_id": create(bench), "groups": [make_sft_group()]}).encode()
    halves = iter([body[:50], body[50:]])
    answer = bench.http.post("/v1/tuning/train_step", content=halves)
    assert "content-type" not in answer.request.headers
    assert ok(answer)["step"] == 1
    return "parsed as JSON"


@TABLE.row("doubled and trailing slashes")
def slashes(bench: Bench) -> str:
    for path in ("/v1/tuning//finetunes", "/v1//tuning/finetunes/", "//v1/tuning/finetunes"):
        assert "finetunes" in ok(bench.http.get(f"{bench.live.endpoint}{path}"))
    return "200, no redirect"


@TABLE.row("`X-Moondream-Auth`, `Authorization: Bearer`, both, none")
def both_headers(bench: Bench) -> str:
    bearer, own = {"Authorization": f"Bearer {KEY}"}, {"X-Moondream-Auth": KEY}
    with httpx.Client(base_url=bench.keyed.url) as http:

        def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return http.get("/v1/tuning/finetunes", headers=named).status_code

        assert http.get("/v1/tuning/finetunes", headers=bearer).status_code == 200
        assert http.get("/v1/tuning/finetunes", headers=own).status_code == 200
        assert status(X_Moondream_Auth="", Authorization=f"Bearer {KEY}") == 200
        assert status(X_Moondream_Auth=KEY, Authorization="Bearer wrong") == 200
        assert status(X_Moondream_Auth="wrong", Authorization=f"Bearer {KEY}") == 401
        refusal(http.get("/v1/tuning/finetunes"), 401, "invalid_api_key")
    return "either holds, `X-Moondream-Auth` decides, none is 401"


@TABLE.row("`GET /finetunes?limit=1` as a health check; `limit` 100 and 1000; `cursor`")
def lists(bench: Bench) -> str:
    for _ in range(2):
        create(bench)
    first = ok(bench.http.get("/v1/tuning/finetunes", params={"limit": 1}))
    assert len(first["finetunes"]) == 1
    assert first["has_more"] is True
    cursor = {"limit": 1000, "cursor": first["next_cursor"]}
    rest = ok(bench.http.get("/v1/tuning/finetunes", params=cursor))
    assert first["finetunes"][0] not in rest["finetunes"]
    ok(bench.http.get("/v1/tuning/finetunes", params={"limit": 100}))
    return "clamped, not refused"


@TABLE.row("the whole rollouts body echoed into `/train_step`, and the inner request alone")
def full_echo(bench: Bench) -> str:
    finetune_id = create(bench)
    answer = roll(bench, finetune_id, num_rollouts=2, ground_truth={"boxes": [BOX]}, org_id="o")
    echo = answer["request"]
    assert set(echo) == {"finetune_id", "num_rollouts", "request", "ground_truth", "org_id"}
    assert echo["request"]["image_url"] == make_request("detect")["image_url"]
    group = {"mode": "rl", "rollouts": answer["rollouts"], "rewards": [1.0, 0.0]}
    assert ok(train(bench, finetune_id, {**group, "request": echo}))["step"] == 1
    assert ok(train(bench, finetune_id, {**group, "request": echo["request"]}))["step"] == 2
    return "both accepted"


@TABLE.row("`rewards: null` of `/rollouts` without ground truth, sent back in `/train_step`")
def rewards_null(bench: Bench) -> str:
    finetune_id = create(bench)
    answer = roll(bench, finetune_id, num_rollouts=2)
    assert "rewards" in answer
    assert answer["rewards"] is None
    group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
    refused = refusal(
        train(bench, finetune_id, {**group, "rewards": None}), 422, "validation_error"
    )
    assert refused["detail"][0]["loc"][:4] == ["body", "groups", 0, "rewards"]
    return "the key is there; `null` as rewards is 422 and names its place"


@TABLE.row("`targets` of March 2026, `mode` absent, `learning_rate`, `lr: null`")
def older_forms(bench: Bench) -> str:
    finetune_id = create(bench)
    targets = make_sft_group(
        target=ABSENT, mode=ABSENT, targets=[{"answer": "a car"}, {"answer": "a van"}]
    )
    step = ok(train(bench, finetune_id, targets, learning_rate=1e-4))
    assert (step["step"], step["lr"]) == (1, 1e-4)
    step = ok(train(bench, finetune_id, make_group(mode=ABSENT), make_sft_group(), lr=None))
    assert (step["step"], step["lr"]) == (2, 2e-4)
    return "accepted; `lr` null is 2e-4"


@TABLE.row("`boxes` and `objects`, in rollouts and in targets of detect")
def boxes_and_objects(bench: Bench) -> str:
    finetune_id = create(bench)
    rollouts = [
        make_rollout(output={key: [BOX]}, answer_tokens=[], coords=[], sizes=[])
        for key in ("objects", "boxes")
    ]
    rl = make_group(rollouts=rollouts, rewards=[1, 0])
    sft = [make_sft_group("detect", target={key: [BOX]}) for key in ("objects", "boxes")]
    assert ok(train(bench, finetune_id, rl, *sft))["step"] == 1
    return "accepted"


@TABLE.row("rollouts without `has_answer_separator`, `logprobs`, `finish_reason`; made-up rollouts")
def made_up(bench: Bench) -> str:
    finetune_id = create(bench)
    bare = make_rollout(has_answer_separator=ABSENT, finish_reason=ABSENT, skill=ABSENT)
    empty = make_rollout(output={"objects": []}, answer_tokens=[], coords=[], sizes=[])
    answer = ok(train(bench, finetune_id, make_group(rollouts=[bare, empty], rewards=[-2, True])))
    assert answer["applied"] is True
    edited = make_rollout(output={"objects": []})
    answer = ok(train(bench, finetune_id, make_group(rollouts=[bare, edited], rewards=[0, 1])))
    assert answer["warnings"], "an output that its tokens do not say is told"
    return "accepted; an edited `output` is a warning"


@TABLE.row("points with `null` and extra fields in `ground_truth` and `target`")
def points_with_more(bench: Bench) -> str:
    finetune_id = create(bench)
    point = {"x": 0.5, "y": 0.5, "width": 3, "label": None}
    truth = {"points": [point], "boxes": None}
    assert len(roll(bench, finetune_id, "point", ground_truth=truth)["rewards"]) == 1
    assert ok(train(bench, finetune_id, make_sft_group("point", target=truth)))["step"] == 1
    return "ignored"


@TABLE.row("`reasoning: true` on detect: 422 `extra_forbidden`")
def extra_forbidden(bench: Bench) -> str:
    body = {"finetune_id": create(bench), "request": make_request("detect", reasoning=True)}
    refused = refusal(bench.http.post("/v1/tuning/rollouts", json=body), 422, "validation_error")
    assert refused["detail"][0]["type"] == "extra_forbidden"
    assert refused["detail"][0]["loc"] == ["body", "request", "reasoning"]
    body["request"]["reasoning"] = False
    ok(bench.http.post("/v1/tuning/rollouts", json=body))
    return "scripts find both words and fall back; `false` is ignored"


@TABLE.row("`max_tokens` and `max_objects` on point and detect")
def object_caps(bench: Bench) -> str:
    finetune_id = create(bench)
    many = {"image_url": encoded(boxed(2, (5, 6))[0]), "object": "shape"}
    for settings, most in (({"max_tokens": 32, "max_objects": 1}, 1), ({"max_tokens": 6}, 2)):
        request = make_request("detect", **many, settings={"temperature": 1.0, **settings})
        for rollout in roll(bench, finetune_id, num_rollouts=4, request=request)["rollouts"]:
            assert len(rollout["sizes"]) <= most
    request = make_request("point", **many, settings={"max_tokens": 4})
    for rollout in roll(bench, finetune_id, num_rollouts=4, request=request)["rollouts"]:
        assert len(rollout["coords"]) <= 4
    return "honoured when sent"


@TABLE.row("bodies of errors: FastAPI's list, OpenAI's object, a message")
def error_bodies(bench: Bench) -> str:
    refusal(bench.http.post("/v1/tuning/finetunes", json={}), 422, "validation_error")
    refusal(bench.http.post("/v1/tuning/finetunes", content=b"{"), 422, "invalid_json")
    refusal(bench.http.get("/v1/tuning/finetunes/none"), 404, "finetune_not_found")
    refusal(bench.http.get("/v1/tuning/nowhere"), 404, "route_not_found")
    refusal(bench.http.put("/v1/tuning/finetunes"), 405, "method_not_allowed")
    name = bench.new_name()
    bench.http.post("/v1/tuning/finetunes", json={"name": name, "rank": 8})
    conflict = bench.http.post("/v1/tuning/finetunes", json={"name": name, "rank": 16})
    refusal(conflict, 409, "rank_conflict")
    return "one body for all readers"


@TABLE.row("`X-Request-Id` of the caller")
def request_id(bench: Bench) -> str:
    sent = {"X-Request-Id": "mine-1"}
    assert bench.http.get("/v1/tuning/finetunes", headers=sent).headers["x-request-id"] == "mine-1"
    missed = bench.http.get("/v1/tuning/finetunes/none", headers=sent)
    assert missed.json()["request_id"] == "mine-1"
    assert len(bench.http.get("/healthz").headers["x-request-id"]) == 26
    return "comes back, in refusals too; else a new one"


@TABLE.row("a misspelt field")
def ignored_fields(bench: Bench) -> str:
    request = make_request("query", settings={"max_token": 3})
    body = {"finetune_id": create(bench), "request": request, "org_id": "o"}
    answer = bench.http.post("/v1/tuning/rollouts", json=body)
    ok(answer)
    named = {name.strip() for name in answer.headers["x-ignored-fields"].split(",")}
    assert named == {"org_id", "request.settings.max_token"}
    return "accepted, and named in `X-Ignored-Fields`"


@TABLE.row("`DELETE` of a checkpoint and of a finetune, repeated")
def repeated_delete(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    path = f"/v1/tuning/finetunes/{finetune_id}"
    ok(bench.http.post(f"{path}/checkpoints/save"))
    for _ in range(2):
        assert ok(bench.http.delete(f"{path}/checkpoints/1")) == {"ok": True}
    for _ in range(2):
        assert ok(bench.http.delete(path)) == {"ok": True}
    refusal(bench.http.delete("/v1/tuning/finetunes/01ARZ3NDEKTSV4RRFFQ69G5FAV"), 404,
            "finetune_not_found")  # fmt: skip
    return "succeeds again; 404 where there never was one"


@TABLE.row("the step of SDK 1.x that gave up: the same bytes join the running step")
def join(bench: Bench) -> str:
    finetune_id = create(bench)
    groups = [
        make_sft_group(request=make_request("query", image_url=encoded(photo(number)[0])))
        for number in range(24)
    ]
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(train, bench, finetune_id, *groups) for _ in range(2)]
        first, again = (call.result() for call in calls)
    assert first.content == again.content
    assert ok(first)["step"] == 1
    one = ok(bench.http.get(f"/v1/tuning/finetunes/{finetune_id}"))
    assert one["finetune"]["step"] == 1
    return "one step, the same answer twice"


@TABLE.row("`GET .../checkpoints/{step}/download` and its link, as loaders fetch it")
def download(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    path = f"/v1/tuning/finetunes/{finetune_id}/checkpoints"
    ok(bench.http.post(f"{path}/save"))
    link = ok(bench.http.get(f"{path}/1/download"))
    assert set(link) == {"url", "expires_in"}
    file = bench.http.get(link["url"])
    assert file.status_code == 200
    assert file.headers["content-type"] == "application/octet-stream"
    assert int(file.headers["content-length"]) == len(file.content)
    assert bench.http.head(link["url"]).headers["content-length"] == str(len(file.content))
    part = bench.http.get(link["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, file.content[10:20])
    forged = bench.http.get(link["url"][:-2] + ("aa" if link["url"][-2:] != "aa" else "bb"))
    assert forged.status_code == 403
    return "a direct 200 without a key, ranges too"


@TABLE.row("an image of 9 MB; data URLs with line breaks, without padding, of another type")
def images(bench: Bench) -> str:
    side = 1730
    noise = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    buffer = io.BytesIO()
    noise.save(buffer, format="PNG", compress_level=1)
    assert 8_900_000 < len(buffer.getvalue()) < 10 * 2**20
    large = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    plain = make_image_url()
    head, payload = plain.split(",")
    odd = [
        f"{head},{payload[:20]}\n{payload[20:]}",
        f"{head},{payload.rstrip('=')}",
        f"data:application/octet-stream;base64,{payload}",
    ]
    finetune_id = create(bench)
    for url in (large, *odd):
        settings = {"max_tokens": 1}
        roll(bench, finetune_id, request=make_request("query", image_url=url, settings=settings))
    return "accepted"


@TABLE.row("the home-automation integration: status 200 alone, saves within 10 s")
def automation(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group(), learning_rate=1e-3))
    start = time.monotonic()
    request = urllib.request.Request(
        f"{bench.live.tuning}/finetunes/{finetune_id}/checkpoints/save", method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    assert time.monotonic() - start < 10
    return "never 201, 202 or 204"


@TABLE.row(
    "the same, with a text as `ground_truth` of query",
    differs="refused: a query has no reward on the server; the message says to score in the script",
)
def query_ground_truth(bench: Bench) -> str:
    body = {
        "finetune_id": create(bench),
        "request": make_request("query"),
        "ground_truth": {"answer": "a car"},
    }
    refused = refusal(bench.http.post("/v1/tuning/rollouts", json=body), 422, "validation_error")
    assert "score" in refused["message"]
    return "422"


@TABLE.row(
    "`image_url` with `https:`",
    differs="refused with `image_url_scheme`, as the hosted server does",
)
def remote_image(bench: Bench) -> str:
    request = make_request("query", image_url="https://example.com/a.jpg")
    body = {"finetune_id": create(bench), "request": request}
    refusal(bench.http.post("/v1/tuning/rollouts", json=body), 422, "image_url_scheme")
    return "422"


@TABLE.row(
    "ground-truth injection where the worst rollout has no box",
    differs="the example indexes an empty `answer_tokens`; no server can fill it",
)
def injection_without_box(bench: Bench) -> str:
    request = make_request("detect", object="shape", settings={"temperature": 0.0})
    request["image_url"] = encoded(boxed(5, empty_every=5)[0])
    rollout = roll(bench, create(bench), request=request)["rollouts"][0]
    assert (rollout["answer_tokens"] == []) == (rollout["output"]["objects"] == [])
    return "`answer_tokens` is empty exactly where `objects` is"
