"""The batch surface as its shell, Python and Node examples use it; http-api.md section 16."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.compat.bench import Bench
from tests.compat.case import Client, Table
from tests.compat.rows.http_tuning import ok
from tests.factories import make_image_url
from tests.service import refusal

TABLE = Table(Client.HTTP_BATCH)

IMAGE = make_image_url()
LINES: list[dict[str, Any]] = [
    {"id": "a", "skill": "caption", "image": IMAGE.split(",")[1], "length": "short"},
    {"id": 2, "skill": "query", "image": IMAGE, "question": "What is this?", "reasoning": False},
    {"skill": "query", "images": [IMAGE], "question": "What is this?"},
    {"id": None, "skill": "detect", "image": IMAGE, "object": "shape"},
    {"id": {"n": 1}, "skill": "point", "image": IMAGE, "object": "shape"},
    {"id": "bad", "skill": "segment", "image": IMAGE, "object": "shape"},
]
DONE_SECONDS = 60.0


def upload(bench: Bench, lines: list[dict[str, Any]]) -> tuple[str, str, list[dict[str, Any]]]:
    """Begin an upload and send its only part; returns the file, the upload, and the parts."""
    begun = ok(bench.http.post("/v1/batch", params={"action": "mpu-create"}))
    assert set(begun) == {"fileId", "uploadId", "key"}
    file_id, upload_id = begun["fileId"], begun["uploadId"]
    body = "\n".join(map(json.dumps, lines)).encode()
    part = ok(
        bench.http.put(
            f"/v1/batch/{file_id}",
            params={"action": "mpu-uploadpart", "uploadId": upload_id, "partNumber": 1},
            content=body,
        )
    )
    assert part["partNumber"] == 1
    return file_id, upload_id, [part]


def complete(bench: Bench, file_id: str, upload_id: str, parts: Any) -> dict[str, Any]:
    params = {"action": "mpu-complete", "uploadId": upload_id}
    return ok(bench.http.post(f"/v1/batch/{file_id}", params=params, json={"parts": parts}))


def finished(bench: Bench, batch_id: str) -> dict[str, Any]:
    """The batch when it has ended."""
    deadline = time.monotonic() + DONE_SECONDS
    while (batch := ok(bench.http.get(f"/v1/batch/{batch_id}")))["status"] in (
        "chunking",
        "processing",
    ):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    return batch


@TABLE.row("create, upload a part, complete, poll, fetch `outputs`")
def whole(bench: Bench) -> str:
    file_id, upload_id, parts = upload(bench, LINES)
    assert '"' not in parts[0]["etag"], "the shell example pastes it into JSON"
    batch = complete(bench, file_id, upload_id, parts)
    assert (batch["id"], batch["status"]) == (file_id, "chunking")
    batch = finished(bench, file_id)
    assert batch["status"] == "completed", batch
    assert batch["progress"] == {"total": 6, "completed": 5, "failed": 1}
    outputs = sorted(batch["outputs"], key=lambda output: output["index"])
    text = "".join(bench.http.get(output["url"]).text for output in outputs)
    results = [json.loads(line) for line in text.splitlines()]
    assert [result["line_index"] for result in results] == list(range(6))
    assert [result["id"] for result in results] == ["a", 2, None, None, {"n": 1}, "bad"]
    assert [result["status"] for result in results] == ["ok"] * 5 + ["error"]
    assert results[5]["error"]["code"] == "unknown_skill"
    assert "reasoning" not in results[1]["result"]
    assert "reasoning" in results[2]["result"], "batch reasons unless told not to"
    return "6 lines, 5 answers, one error; the bad line fails nothing else"


@TABLE.row("`etag` with quotation marks; `mpu-complete` again")
def quoted(bench: Bench) -> str:
    file_id, upload_id, parts = upload(bench, LINES[:1])
    quoted = [{"partNumber": 1, "etag": f'"{parts[0]["etag"]}"'}]
    assert complete(bench, file_id, upload_id, quoted)["id"] == file_id
    assert complete(bench, file_id, upload_id, quoted)["id"] == file_id
    listed = ok(bench.http.get("/v1/batch", params={"limit": 5}))
    assert set(listed) == {"batches", "next_cursor", "has_more"}
    assert file_id in [batch["id"] for batch in listed["batches"]]
    return "accepted, the same batch"


@TABLE.row("abort, twice; a malformed `model`")
def abort(bench: Bench) -> str:
    file_id, upload_id, parts = upload(bench, LINES[:1])
    bad = {"parts": parts, "model": "not/a@model@id"}
    params = {"action": "mpu-complete", "uploadId": upload_id}
    refused = bench.http.post(f"/v1/batch/{file_id}", params=params, json=bad)
    refusal(refused, 400, "invalid_model")
    for _ in range(2):
        params = {"action": "mpu-abort", "uploadId": upload_id}
        assert ok(bench.http.delete(f"/v1/batch/{file_id}", params=params)) == {"ok": True}
    return "`ok` both times; 400 `invalid_model`"
