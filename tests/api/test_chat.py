"""Chat completions in OpenAI's shapes; http-api.md section 14."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import pytest
from PIL import Image

from contract.engine import Answered
from contract.errors import RequestRefused
from contract.skills import ChatRequest, ChatTurn, FinishReason
from server.api.chat_events import ChatForm
from server.bodies.slices import MIN_SLICE_BYTES
from tests.factories import make_image_url
from tests.service import Service, locs, refusal
from tests.streams import Stream, events_of

ONE_DATABASE_IS_ENOUGH = True  # Of answers nothing is stored.

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
RED, BLUE = make_image_url((200, 0, 0)), make_image_url((0, 0, 200))


def user(content: Any = "What?") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "That.") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def shown(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


async def ask(service: Service, *messages: Any, **fields: Any) -> Any:
    return await service.post(PATH, {"messages": list(messages) or [user()], **fields})


async def test_an_answer_has_the_shape_of_openai(service: Service) -> None:
    answer = await ask(service, model="moondream/moondream3-preview")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (command,) = service.engine.commands("answer")
    assert body["id"].startswith("chatcmpl-")
    assert isinstance(body["created"], int)
    assert {key: body[key] for key in set(body) - {"id", "created"}} == {
        "object": "chat.completion",
        "model": "moondream/moondream3-preview",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": body["choices"][0]["message"]["content"],
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 740, "completion_tokens": 3, "total_tokens": 743},
    }
    assert body["choices"][0]["message"]["content"].startswith("answer ")
    assert command.request == ChatRequest(turns=(ChatTurn(text="What?"),))
    assert (command.settings.temperature, command.settings.top_p) == (0.2, 0.9)
    assert command.settings.max_tokens == 768
    assert not command.is_streamed


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [{"role": "system", "content": [text(" Be"), text("brief. ")]}, user(" What? ")],
            ChatRequest(turns=(ChatTurn(text="What?"),), system="Be\nbrief."),
        ),
        (
            [user([shown({"url": RED, "detail": "low"}), text("One?"), shown(BLUE)]), assistant(),
             user([text("Again"), text("the first?"), shown({"url": RED})])],
            ChatRequest(
                turns=(
                    ChatTurn(text="One?", images=(0, 1), answer="That."),
                    ChatTurn(text="Again\nthe first?", images=(0,)),
                )
            ),
        ),
        (
            [user("a"), user([shown(RED)]), assistant("b"), assistant([text("c")]), user("d")],
            ChatRequest(
                turns=(ChatTurn(text="a", images=(0,), answer="b\n\nc"), ChatTurn(text="d"))
            ),
        ),
        ([user([shown(RED)])], ChatRequest(turns=(ChatTurn(text="", images=(0,)),))),
    ],
    ids=["system", "pictures", "roles in a row", "a picture alone"],
)  # fmt: skip
async def test_messages_become_turns(service: Service, messages: Any, expected: Any) -> None:
    answer = await ask(service, *messages)
    assert answer.status_code == 200, answer.text
    assert service.engine.commands("answer")[0].request == expected


async def test_settings_and_names_of_the_length(service: Service) -> None:
    for sent, wanted in (
        ({"temperature": 0, "top_p": 0.5, "max_tokens": 7}, (0.0, 0.5, 7)),
        ({"max_tokens": 7, "max_completion_tokens": 9}, (0.2, 0.9, 9)),
        ({"max_completion_tokens": 10**6, "temperature": None}, (0.2, 0.9, 4096)),
        ({"n": 1, "tools": [], "functions": None, "stop": "", "seed": 5}, (0.2, 0.9, 768)),
    ):
        answer = await ask(service, **sent)
        assert answer.status_code == 200, answer.text
        used = service.engine.commands("answer")[-1].settings
        assert (used.temperature, used.top_p, used.max_tokens) == wanted
    assert answer.headers["x-ignored-fields"] == "seed"


WRONG: list[tuple[Any, dict[str, Any], tuple[str | int, ...]]] = [
    (None, {}, ("messages",)),
    ([], {}, ("messages",)),
    (["x"], {}, ("messages", 0)),
    ([{"content": "x"}], {}, ("messages", 0, "role")),
    ([{"role": "tool", "content": "x"}], {}, ("messages", 0, "role")),
    ([{"role": "user"}], {}, ("messages", 0, "content")),
    ([user(None)], {}, ("messages", 0, "content")),
    ([user(5)], {}, ("messages", 0, "content")),
    ([user("  ")], {}, ("messages", 0, "content")),
    ([user([])], {}, ("messages", 0, "content")),
    ([user([{"type": "audio"}])], {}, ("messages", 0, "content", 0)),
    ([user([{"type": ["text"]}])], {}, ("messages", 0, "content", 0)),
    ([user([{"type": "text"}])], {}, ("messages", 0, "content", 0, "text")),
    ([user([shown(None)])], {}, ("messages", 0, "content", 0, "image_url")),
    ([user([shown({})])], {}, ("messages", 0, "content", 0, "image_url", "url")),
    ([assistant(), user()], {}, ("messages",)),
    ([user(), assistant()], {}, ("messages", 1, "role")),
    ([{"role": "system", "content": "x"}], {}, ("messages",)),
    ([user(), {"role": "system", "content": "x"}, user()], {}, ("messages", 1, "role")),
    ([user(), assistant([shown(RED)]), user()], {}, ("messages", 1, "content")),
    ([user()], {"temperature": -1}, ("temperature",)),
    ([user()], {"top_p": 0}, ("top_p",)),
    ([user()], {"max_tokens": 0}, ("max_tokens",)),
    ([user()], {"stream": "yes"}, ("stream",)),
    ([user()], {"reasoning": {"effort": "low"}}, ("reasoning",)),
    ([user()], {"stream_options": True}, ("stream_options",)),
    ([user()], {"model": 5}, ("model",)),
]


async def test_validation_failures_are_400(service: Service, subtests: pytest.Subtests) -> None:
    for messages, fields, loc in WRONG:
        with subtests.test(loc=loc):
            answer = await service.post(PATH, {"messages": messages, **fields})
            body = refusal(answer, 400, "validation_error")
            assert locs(answer) == [("body", *loc)]
            assert body["error"]["type"] == "invalid_request_error"
            assert body["error"]["param"] == ".".join(map(str, loc))
    assert service.engine.calls == []


UNSUPPORTED = [
    ("n", 2), ("n", 0), ("n", True), ("n", "1"), ("tools", [{}]), ("functions", [{}]),
    ("stop", "x"), ("stop", ["x"]),
]  # fmt: skip


async def test_what_would_change_the_answer_is_refused(
    service: Service, subtests: pytest.Subtests
) -> None:
    for name, value in UNSUPPORTED:
        with subtests.test(name=name, value=value):
            body = refusal(await ask(service, **{name: value}), 400, "unsupported_parameter")
            assert body["error"]["param"] == name
    assert service.engine.calls == []


async def test_pictures_that_cannot_be_used(service: Service) -> None:
    by_url = await ask(service, user([text("?"), shown({"url": "https://example.com/a.png"})]))
    refusal(by_url, 400, "image_url_scheme")
    assert locs(by_url) == [("body", "messages", 0, "content", 1, "image_url", "url")]
    damaged = await ask(service, user([shown("data:image/png;base64,aGVsbG8=")]))
    refusal(damaged, 400, "image_decode_failed")
    assert locs(damaged) == [("body", "messages", 0, "content", 0, "image_url")]


async def test_models_and_refusals_of_the_worker(service: Service) -> None:
    finetune_id = await service.create()
    await service.train(finetune_id)
    await service.save(finetune_id)
    name = f"moondream3-preview/{finetune_id}@1"
    answer = await ask(service, model=name)
    assert answer.json()["model"] == name
    assert service.engine.commands("answer")[0].adapter.step == 1
    assert (await ask(service)).json()["model"] == "moondream3-preview"
    refusal(await ask(service, model="gpt-4"), 404, "model_not_found")
    service.engine.faults.append(RequestRefused("Too long.", loc=("messages",)))
    refused = await ask(service, stream=True)
    refusal(refused, 400, "validation_error")
    assert locs(refused) == [("body", "messages")]


async def test_reasoning_stands_beside_the_content(service: Service) -> None:
    (choice,) = (await ask(service, reasoning=True)).json()["choices"]
    assert set(choice["message"]) == {"role", "content", "reasoning"}
    assert choice["message"]["reasoning"] == "because"


async def test_grounding_is_told_if_there_is_any(anyio_backend: str) -> None:
    grounding = [{"start_idx": 0, "end_idx": 2, "points": [[0.5, 0.5]]}]
    answered = Answered(
        output={"answer": "so", "reasoning": {"text": "hm", "grounding": grounding}},
        finish_reason=FinishReason.LENGTH,
        input_tokens=1,
        output_tokens=2,
        prefill_time_ms=1.0,
        decode_time_ms=1.0,
        ttft_ms=1.0,
    )
    form = ChatForm(completion_id="c", created=1, model="m", includes_usage=False)
    (choice,) = form.whole(answered)["choices"]
    assert choice["message"]["reasoning_details"] == {"grounding": grounding}
    assert choice["finish_reason"] == "length"


async def test_a_stream_has_the_shape_of_openai(service: Service) -> None:
    answer = await ask(service, stream=True, reasoning=True, model="tiny")
    assert answer.headers["content-type"] == "text/event-stream"
    *chunks, done = events_of(answer.content)
    assert done == "[DONE]"
    for chunk in chunks:
        assert set(chunk) == {"id", "object", "created", "model", "choices"}
        assert (chunk["object"], chunk["model"]) == ("chat.completion.chunk", "tiny")
        (choice,) = chunk["choices"]
        assert set(choice) == {"index", "delta", "finish_reason"}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    first, thought, *contents, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert thought["delta"] == {"reasoning": "because"}
    assert [set(choice["delta"]) for choice in contents] == [{"content"}] * len(contents)
    assert "".join(c["delta"]["content"] for c in contents).startswith("answer ")
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert {choice["finish_reason"] for choice in (first, thought, *contents)} == {None}


async def test_what_it_cost_is_streamed_on_demand_only(service: Service) -> None:
    options = {"stream_options": {"include_usage": True}}
    *chunks, cost, done = events_of((await ask(service, stream=True, **options)).content)
    assert done == "[DONE]"
    assert cost["choices"] == []
    assert cost["usage"] == {"prompt_tokens": 740, "completion_tokens": 3, "total_tokens": 743}
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (await ask(service, **options)).json()["object"] == "chat.completion"
    plain = events_of((await ask(service, stream=True, stream_options={})).content)
    assert all(chunk["choices"] for chunk in plain[:-1])


async def test_a_stream_that_breaks_is_not_done(service: Service) -> None:
    async def fail(number: int) -> None:
        service.engine.die()

    async def wait_then_fail(number: int) -> None:
        await growing.gained(1)
        service.engine.after_delta = fail

    service.engine.after_delta = wait_then_fail
    growing = Stream(service, PATH, {"messages": [user()], "stream": True})
    async with asyncio.timeout(10):
        *_, error, mark = await growing.ended()
    assert (error["error"]["code"], mark) == ("worker_unavailable", "[ERROR]")


async def test_a_large_picture_that_is_shown_twice_is_decoded_once(service: Service) -> None:
    file = io.BytesIO()
    Image.effect_noise((90, 90), 50).save(file, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    assert len(url) > MIN_SLICE_BYTES  # it is kept out of the JSON
    answer = await ask(service, user([text("?"), shown({"url": url}), shown({"url": url})]))
    assert answer.status_code == 200, answer.text
    (command,) = service.engine.commands("answer")
    assert command.request.turns[0].images == (0, 0)
    assert service.decoder.num_decoded == 1
