"""The documented HTTP forms of the inference skills, chat and models."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.compat.bench import Bench
from tests.compat.case import Client, Table
from tests.compat.rows.http_tuning import create, ok, train
from tests.factories import make_image_url, make_sft_group
from tests.service import refusal

TABLE = Table(Client.HTTP_INFERENCE)

METRICS = {"input_tokens", "output_tokens", "prefill_time_ms", "decode_time_ms", "ttft_ms"}
IMAGE = make_image_url()
BODIES: dict[str, dict[str, Any]] = {
    "query": {"image_url": IMAGE, "question": "What is this?"},
    "caption": {"image_url": IMAGE, "length": "short"},
    "detect": {"image_url": IMAGE, "object": "shape"},
    "point": {"image_url": IMAGE, "object": "shape"},
    "segment": {"image_url": IMAGE, "object": "shape", "settings": {"max_tokens": 64}},
}
KEYS = {
    "query": {"answer"},
    "caption": {"caption"},
    "detect": {"objects"},
    "point": {"points"},
    "segment": {"path", "bbox"},
}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, every line checked: `data: {json}` and an empty line."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    lines = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


@TABLE.row("`POST /query`, `/caption`, `/detect`, `/point`, `/segment` with `curl -d`")
def skills(bench: Bench) -> str:
    for skill, body in BODIES.items():
        answer = json.loads(bench.curl("-d", json.dumps(body), f"{bench.v1}/{skill}"))
        assert set(answer) == KEYS[skill] | {"request_id", "finish_reason", "metrics"}, answer
        assert set(answer["metrics"]) == METRICS
    return "the answer, `request_id`, `finish_reason` and `metrics`"


@TABLE.row("`reasoning` left out, `false`, `true`")
def reasoning(bench: Bench) -> str:
    body = BODIES["query"]
    assert "reasoning" not in ok(bench.http.post("/v1/query", json=body))
    assert "reasoning" not in ok(bench.http.post("/v1/query", json={**body, "reasoning": False}))
    thought = ok(bench.http.post("/v1/query", json={**body, "reasoning": True}))["reasoning"]
    assert set(thought) == {"text", "grounding"}
    return "in the answer only if it was asked for"


@TABLE.row("`model`: absent, `null`, aliases, `{prefix}/{id}@{step}`, `{id}@{step}`")
def models(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    ok(bench.http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save"))
    names = ("moondream3-preview", "moondream/moondream3-preview", "")
    ids = (f"{finetune_id}@1", f"moondream3-preview/{finetune_id}@1", f"any/{finetune_id}@1")
    for model in (None, *names, *ids):
        ok(bench.http.post("/v1/query", json={"question": "What is red?", "model": model}))
    for model, code in (
        ("gpt-none", "model_not_found"),
        (f"x/{finetune_id}@2", "checkpoint_not_found"),
        ("x/01ARZ3NDEKTSV4RRFFQ69G5FAV@1", "finetune_not_found"),
    ):
        body = {"question": "What is red?", "model": model}
        refusal(bench.http.post("/v1/query", json=body), 404, code)
    return "answered; 404 for others, each with its code"


@TABLE.row("a stray `skill`, `variant`, `stream` on detect")
def stray_fields(bench: Bench) -> str:
    body = {**BODIES["detect"], "skill": "detect", "variant": "any", "stream": True}
    assert isinstance(ok(bench.http.post("/v1/detect", json=body))["objects"], list)
    return "ignored, one JSON answer"


@TABLE.row("refusals: 400, not 422, with `detail` and `error`")
def refusals(bench: Bench) -> str:
    refusal(bench.http.post("/v1/query", json={}), 400, "validation_error")
    refusal(bench.http.post("/v1/query", content=b"{"), 400, "invalid_json")
    broken = {**BODIES["caption"], "image_url": "data:image/png;base64,AAAA"}
    refusal(bench.http.post("/v1/caption", json=broken), 400, "image_decode_failed")
    refusal(bench.http.post("/v1/nothing", json={}), 404, "route_not_found")
    return "400 where the skill pages say so"


@TABLE.row("`stream: true` of query and caption, line by line")
def stream(bench: Bench) -> str:
    greedy = {"temperature": 0.0, "max_tokens": 24}
    for skill, key in (("query", "answer"), ("caption", "caption")):
        body = {**BODIES[skill], "settings": greedy}
        seen = events(bench.http.post(f"/v1/{skill}", json={**body, "stream": True}))
        *chunks, last = seen
        assert all(set(chunk) == {"chunk", "completed", "request_id"} for chunk in chunks)
        assert not any(chunk["completed"] for chunk in chunks)
        assert last["completed"] is True
        assert last["chunk"] == ""
        assert {"request_id", "org_id", "finish_reason", "metrics", key} <= set(last)
        assert "".join(chunk["chunk"] for chunk in chunks) == last[key]
        assert last[key] == ok(bench.http.post(f"/v1/{skill}", json=body))[key]
    return "`chunk`, and a last event with the whole"


@TABLE.row("`stream: true` of segment")
def stream_segment(bench: Bench) -> str:
    seen = events(bench.http.post("/v1/segment", json={**BODIES["segment"], "stream": True}))
    assert {event["type"] for event in seen} <= {"bbox", "path_delta", "final"}
    assert seen[-1]["type"] == "final"
    assert seen[-1]["completed"] is True
    return "`bbox`, `path_delta`, `final`"


@TABLE.row("`stream: true` that is refused")
def stream_refused(bench: Bench) -> str:
    refusal(bench.http.post("/v1/query", json={"stream": True}), 400, "validation_error")
    unknown = {**BODIES["query"], "stream": True, "model": "none"}
    refusal(bench.http.post("/v1/query", json=unknown), 404, "model_not_found")
    return "its status, no stream"


@TABLE.row("`POST /chat/completions` with `curl -d`")
def chat(bench: Bench) -> str:
    body = {
        "model": "moondream3-preview",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": IMAGE},
                ],
            }
        ],
    }
    answer = json.loads(bench.curl("-d", json.dumps(body), f"{bench.v1}/chat/completions"))
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return "a bare `image_url` string as well"


@TABLE.row("`GET /models`, `GET /models/{id}` with slashes in the id")
def list_models(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    ok(bench.http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save"))
    listed = ok(bench.http.get("/v1/models"))
    assert listed["object"] == "list"
    ids = [model["id"] for model in listed["data"]]
    model_id = f"moondream3-preview/{finetune_id}@1"
    assert "moondream3-preview" in ids
    assert model_id in ids
    one = ok(bench.http.get(f"/v1/models/{model_id}"))
    assert set(one) == {"id", "object", "created", "owned_by"}
    refusal(bench.http.get("/v1/models/none"), 404, "model_not_found")
    return "base and saved checkpoints; 404 for others"


@TABLE.row("`GET /healthz`, `/readyz`, `/openapi.json`")
def health(bench: Bench) -> str:
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert bench.http.get(path).status_code == 200, path
    return "200"


@TABLE.row(
    "`image_url` with `https:`",
    differs="refused with `image_url_scheme` (400 in chat), as the hosted server does",
)
def remote_image(bench: Bench) -> str:
    body = {**BODIES["query"], "image_url": "https://example.com/a.jpg"}
    refusal(bench.http.post("/v1/query", json=body), 422, "image_url_scheme")
    return "422"


@TABLE.row(
    "`stream: true`, then `text` of each event",
    differs="one demo reads `text`; every SDK reads `chunk`, which is what is sent",
)
def stream_text(bench: Bench) -> str:
    seen = events(bench.http.post("/v1/query", json={**BODIES["query"], "stream": True}))
    assert not any("text" in event for event in seen)
    return "no `text`"
