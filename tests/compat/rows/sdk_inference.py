"""Every public method of the official SDK's inference client, without a key in open mode."""

from __future__ import annotations

import moondream as md
from moondream.types import (
    Base64EncodedImage,
    CaptionOutput,
    ChatOutput,
    DetectOutput,
    PointOutput,
    QueryOutput,
    SegmentOutput,
    SegmentStreamChunk,
)

from tests.compat.as_typed import assert_fits
from tests.compat.bench import KEY, Bench
from tests.compat.case import Client, Table
from tests.compat.rows.sdk_tuning import sft, status_of
from tests.compat.scripts.pictures import boxed, photo
from tests.factories import make_image_url

TABLE = Table(Client.SDK_INFERENCE)

GREEDY = {"temperature": 0.0, "max_tokens": 24}
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What shape is this?"},
            {"type": "image_url", "image_url": {"url": make_image_url()}},
        ],
    }
]


@TABLE.row("`md.vl(api_key, endpoint, model)`", "vl")
def create(bench: Bench) -> str:
    client = md.vl(KEY, endpoint=f"{bench.keyed.url}/v1", model="moondream3-preview")
    assert client.query(question="What is red?")["answer"]
    without = md.vl(endpoint=f"{bench.keyed.url}/v1")
    assert status_of(lambda: without.query(question="What is red?")) == 401
    return "with the key an answer, without it 401"


@TABLE.row("`md.vl(endpoint)` with a trailing slash: asks for `/v1//query`", "vl")
def doubled_slash(bench: Bench) -> str:
    client = md.vl(endpoint=f"{bench.v1}/")
    assert client.query(question="What is red?")["answer"]
    return "answers, no redirect"


@TABLE.row("`vl.encode_image(image)`, given to `vl.caption(image)`", "CloudVL.encode_image")
def encode_image(bench: Bench) -> str:
    client = bench.model()
    encoded = client.encode_image(photo(1)[0].convert("RGBA"))
    assert isinstance(encoded, Base64EncodedImage)
    assert_fits(client.caption(encoded, settings=GREEDY), CaptionOutput)
    return "the encoded image is taken"


@TABLE.row("`with md.vl(endpoint) as vl`, `vl.close()`", "CloudVL.close")
def close(bench: Bench) -> str:
    with bench.model() as client:
        assert client.query(question="What is red?")["answer"]
    client.close()
    return "nothing to release"


@TABLE.row("`vl.caption(image, length, settings)`", "CloudVL.caption")
def caption(bench: Bench) -> str:
    for length in ("short", "normal", "long"):
        answer = bench.model().caption(photo(1)[0], length=length, settings=GREEDY)
        assert_fits(answer, CaptionOutput)
        assert answer["caption"]
    return "three lengths"


@TABLE.row("`vl.caption(image, stream=True)`", "CloudVL.caption")
def caption_stream(bench: Bench) -> str:
    client, image = bench.model(), photo(1)[0]
    chunks = list(client.caption(image, stream=True, settings=GREEDY)["caption"])
    assert "".join(chunks) == client.caption(image, settings=GREEDY)["caption"]
    return "the chunks are the caption"


@TABLE.row("`vl.query(image, question, settings)`", "CloudVL.query")
def query(bench: Bench) -> str:
    answer = bench.model().query(photo(1)[0], "What shape is this?", settings=GREEDY)
    assert_fits(answer, QueryOutput)
    assert set(answer) == {"answer"}
    return "`answer`, no `reasoning`"


@TABLE.row("`vl.query(question)` without an image", "CloudVL.query")
def query_without_image(bench: Bench) -> str:
    assert_fits(bench.model().query(question="What is red?"), QueryOutput)
    return "`answer`"


@TABLE.row("`vl.query(image, question, reasoning=True, spatial_refs)`", "CloudVL.query")
def query_reasoning(bench: Bench) -> str:
    answer = bench.model().query(
        photo(1)[0],
        "What is here?",
        reasoning=True,
        spatial_refs=[[0.5, 0.5], [0.1, 0.1, 0.9, 0.9]],
    )
    assert_fits(answer, QueryOutput)
    assert set(answer) == {"answer", "reasoning"}
    return "`reasoning` has text and grounding"


@TABLE.row("`vl.query(image, question, stream=True)`", "CloudVL.query")
def query_stream(bench: Bench) -> str:
    client, image = bench.model(), photo(1)[0]
    chunks = list(client.query(image, "What is this?", stream=True, settings=GREEDY)["answer"])
    assert "".join(chunks) == client.query(image, "What is this?", settings=GREEDY)["answer"]
    return "the chunks are the answer"


@TABLE.row("`vl.query(image, question)` on a saved checkpoint", "CloudVL.query")
def query_checkpoint(bench: Bench) -> str:
    finetune = bench.finetune()
    for _ in range(4):
        finetune.train_step([sft("zz")], lr=2e-2)
    finetune.save_checkpoint()
    client, base = bench.model(finetune.model(4)), bench.model()
    image = photo(1)[0]
    said = client.query(image, "What is this?", settings=GREEDY)
    assert said != base.query(image, "What is this?", settings=GREEDY)
    assert client.caption(image, settings=GREEDY)["caption"]
    assert isinstance(client.detect(image, "shape")["objects"], list)
    assert isinstance(client.point(image, "shape")["points"], list)
    return "answers as it was taught, with every skill"


@TABLE.row("`vl.chat(messages, settings)`", "CloudVL.chat")
def chat(bench: Bench) -> str:
    answer = bench.model().chat(MESSAGES, settings={**GREEDY, "top_p": 0.9})
    assert_fits(answer, ChatOutput)
    assert answer["message"]["role"] == "assistant"
    assert answer["finish_reason"] in ("stop", "length")
    return "`message` and `finish_reason`"


@TABLE.row("`vl.chat(messages, reasoning=True)`", "CloudVL.chat")
def chat_reasoning(bench: Bench) -> str:
    answer = bench.model().chat(MESSAGES, reasoning=True)
    assert_fits(answer, ChatOutput)
    assert isinstance(answer["message"]["reasoning"], str)
    return "`message.reasoning` is text"


@TABLE.row("`vl.chat(messages, stream=True)`", "CloudVL.chat")
def chat_stream(bench: Bench) -> str:
    client = bench.model()
    chunks = list(client.chat(MESSAGES, stream=True, settings=GREEDY)["message"])
    whole = client.chat(MESSAGES, settings=GREEDY)["message"]["content"]
    assert "".join(chunks).strip() == whole
    return "the chunks are the message"


@TABLE.row("`vl.chat(messages)` with a key, sent as Bearer", "CloudVL.chat")
def chat_key(bench: Bench) -> str:
    client = md.vl(KEY, endpoint=f"{bench.keyed.url}/v1")
    assert client.chat([{"role": "user", "content": "What is red?"}])["message"]["content"]
    wrong = md.vl("wrong", endpoint=f"{bench.keyed.url}/v1")
    assert status_of(lambda: wrong.chat([{"role": "user", "content": "What is red?"}])) == 401
    return "the key holds, a wrong one is 401"


@TABLE.row("`vl.detect(image, object, settings)`", "CloudVL.detect")
def detect(bench: Bench) -> str:
    answer = bench.model().detect(boxed(4)[0], "shape", settings={"max_objects": 2})
    assert_fits(answer, DetectOutput)
    assert len(answer["objects"]) <= 2
    return "`objects` with four edges each"


@TABLE.row("`vl.point(image, object, settings, spatial_refs)`", "CloudVL.point")
def point(bench: Bench) -> str:
    answer = bench.model().point(
        boxed(4)[0], "shape", settings={"max_tokens": 8}, spatial_refs=[[0.5, 0.5]]
    )
    assert_fits(answer, PointOutput)
    assert len(answer["points"]) <= 4
    return "`points` with `x` and `y`"


@TABLE.row("`vl.segment(image, object, spatial_refs, settings)`", "CloudVL.segment")
def segment(bench: Bench) -> str:
    answer = bench.model().segment(
        boxed(4)[0], "shape", spatial_refs=[[0.5, 0.5]], settings={"max_tokens": 64}
    )
    assert_fits(answer, SegmentOutput)
    assert isinstance(answer["path"], str)
    return "`path`, and `bbox` where something was found"


@TABLE.row("`vl.segment(image, object, stream=True)`", "CloudVL.segment")
def segment_stream(bench: Bench) -> str:
    updates = list(bench.model().segment(boxed(4)[0], "shape", stream=True, settings=GREEDY))
    for update in updates:
        assert_fits(update, SegmentStreamChunk)
    assert updates[-1]["completed"] is True
    assert "".join(u.get("chunk", "") for u in updates) or updates[-1]["path"] == ""
    return "ends with the whole path"


@TABLE.row(
    '`vl.query(image, question)`, then `["request_id"]` of the result',
    "CloudVL.query",
    differs="the server sends `request_id`, the SDK drops it",
)
def request_id(bench: Bench) -> str:
    assert "request_id" not in bench.model().query(question="What is red?")
    sent = bench.http.post("/v1/query", json={"question": "What is red?"})
    assert sent.json()["request_id"] == sent.headers["x-request-id"]
    return "the SDK's result has `answer` only"
