"""The official Node SDK, unmodified, and the documented calls by `fetch`.

Its dependency sharp is a later release here: the one of its own choice downloads what it links to.
"""

from __future__ import annotations

from typing import Any

from tests.compat.bench import Bench
from tests.compat.case import Client, Table

TABLE = Table(Client.NODE, needs="node")

PUBLIC = {"constructor", "caption", "query", "detect", "point", "segment"}
PRIVATE = {"encodeImage", "makeRequest", "streamResponse", "streamSegmentResponse"}


@TABLE.row("`new vl({ endpoint })` without a key: an empty `X-Moondream-Auth`")
def methods(bench: Bench) -> str:
    assert set(bench.node.value("methods")) == PUBLIC | PRIVATE, "a method has no row"
    assert bench.node.value("query")["answer"]
    return "open mode answers"


@TABLE.row("`caption({ image })`, `{ image, length, variant }`, `{ image: { imageUrl } }`")
def caption(bench: Bench) -> str:
    for name in ("caption", "caption_length", "caption_encoded"):
        assert isinstance(bench.node.value(name)["caption"], str)
    return "`caption`"


@TABLE.row("`caption({ image, stream: true })`")
def caption_stream(bench: Bench) -> str:
    return _chunks(bench.node.value("caption_stream"))


@TABLE.row("`query({ image, question })`, `{ question }`")
def query(bench: Bench) -> str:
    for name in ("query", "query_without_image", "query_no_reasoning"):
        assert set(bench.node.value(name)) == {"answer"}
    return "`answer`"


@TABLE.row("`query({ image, question, reasoning: true })`")
def query_reasoning(bench: Bench) -> str:
    assert set(bench.node.value("query_reasoning")["reasoning"]) == {"text", "grounding"}
    return "`reasoning` has text and grounding"


@TABLE.row("`query({ image, question, stream: true })`")
def query_stream(bench: Bench) -> str:
    return _chunks(bench.node.value("query_stream"))


@TABLE.row("`detect({ image, object })`, `point({ image, object })`")
def objects(bench: Bench) -> str:
    assert isinstance(bench.node.value("detect")["objects"], list)
    assert isinstance(bench.node.value("point")["points"], list)
    return "`objects`, `points`"


@TABLE.row("`segment({ image, object, spatialRefs, settings })`")
def segment(bench: Bench) -> str:
    assert isinstance(bench.node.value("segment")["path"], str)
    return "`path` and `bbox`"


@TABLE.row("`segment({ image, object, stream: true })`")
def segment_stream(bench: Bench) -> str:
    assert bench.node.value("segment_stream")[-1]["completed"] is True
    return "ends with the whole path"


@TABLE.row("a refused call")
def refused(bench: Bench) -> str:
    assert bench.node.error("refused") == "HTTP error! status: 422"
    return "throws with the status"


@TABLE.row("`fetch` of `/query` and `/detect` as documented")
def fetch(bench: Bench) -> str:
    for name, key in (("fetch_query", "answer"), ("fetch_detect", "objects")):
        seen = bench.node.value(name)
        assert seen["status"] == 200
        assert key in seen["body"]
        assert seen["body"]["request_id"]
    return "200 with JSON"


def _chunks(chunks: Any) -> str:
    assert all(isinstance(chunk, str) for chunk in chunks)
    assert "".join(chunks)
    return "chunks of text"
