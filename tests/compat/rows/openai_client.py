"""The `openai` package against `/v1`."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.compat.bench import KEY, Bench
from tests.compat.case import Client, Table
from tests.compat.rows.http_tuning import create, ok, train
from tests.factories import make_image_url, make_sft_group

TABLE = Table(Client.OPENAI)

MODEL = "moondream3-preview"
TEXT: list[Any] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is red?"},
]
PICTURE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": make_image_url(), "detail": "low"}},
        ],
    }
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_completion_tokens": 24}


def client_of(bench: Bench, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=bench.v1, api_key=key, max_retries=0)


@TABLE.row("`client.models.list()`")
def models_list(bench: Bench) -> str:
    with client_of(bench) as client:
        models = list(client.models.list())
    assert MODEL in {model.id for model in models}
    assert all(model.object == "model" for model in models)
    return "base model and saved checkpoints"


@TABLE.row("`client.models.retrieve(id)`")
def models_retrieve(bench: Bench) -> str:
    with client_of(bench) as client:
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-none")
    return "the entry; `NotFoundError` for others"


@TABLE.row("`client.chat.completions.create(model, messages)`: text, image")
def chat(bench: Bench) -> str:
    with client_of(bench) as client:
        for messages in (TEXT, PICTURE):
            answer = client.chat.completions.create(model=MODEL, messages=messages, **GREEDY)
            assert answer.choices[0].message.role == "assistant"
            assert answer.choices[0].finish_reason in ("stop", "length")
            assert answer.usage is not None
            assert answer.usage.total_tokens > answer.usage.prompt_tokens
            assert answer.model == MODEL
    return "message, `finish_reason`, usage"


@TABLE.row("`create(messages)` with several turns, `max_tokens`, `top_p`, ignored extras")
def chat_turns(bench: Bench) -> str:
    turns = [*PICTURE, {"role": "assistant", "content": "A square."}, TEXT[1]]
    with client_of(bench) as client:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=turns,
            max_tokens=8,
            top_p=0.9,
            seed=1,
            presence_penalty=0.5,
            user="me",
            n=1,
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    return "the limit holds, extras are ignored"


@TABLE.row("`create(model)` of a saved checkpoint")
def chat_checkpoint(bench: Bench) -> str:
    finetune_id = create(bench)
    ok(train(bench, finetune_id, make_sft_group()))
    ok(bench.http.post(f"/v1/tuning/finetunes/{finetune_id}/checkpoints/save"))
    model = f"moondream3-preview/{finetune_id}@1"
    with client_of(bench) as client:
        assert client.chat.completions.create(model=model, messages=TEXT).model == model
    return "its id comes back as `model`"


@TABLE.row("`create(stream=True)`")
def chat_stream(bench: Bench) -> str:
    with client_of(bench) as client:
        stream = client.chat.completions.create(model=MODEL, messages=TEXT, stream=True, **GREEDY)
        chunks = list(stream)
        whole = client.chat.completions.create(model=MODEL, messages=TEXT, **GREEDY)
    assert all(len(chunk.choices) == 1 for chunk in chunks), "published code reads choices[0]"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.strip() == whole.choices[0].message.content
    return "the chunks are the message, no chunk without `choices`"


@TABLE.row('`create(stream=True, stream_options={"include_usage": True})`')
def chat_stream_usage(bench: Bench) -> str:
    with client_of(bench) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=TEXT,
                stream=True,
                stream_options={"include_usage": True},
                **GREEDY,
            )
        )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    return "a last chunk with usage"


@TABLE.row('`create(extra_body={"reasoning": True})`')
def chat_reasoning(bench: Bench) -> str:
    with client_of(bench) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=PICTURE, extra_body={"reasoning": True}
        )
    assert isinstance(answer.choices[0].message.model_dump()["reasoning"], str)
    return "`message.reasoning` is text"


@TABLE.row(
    "`create(n=2)`, `tools`, `stop`, an `https:` image",
    differs="`BadRequestError`: `unsupported_parameter`, `image_url_scheme`",
)
def chat_unsupported(bench: Bench) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    remote = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}}],
        }
    ]
    with client_of(bench) as client:
        for messages, extra, code in (
            (TEXT, {"n": 2}, "unsupported_parameter"),
            (TEXT, {"tools": [tool]}, "unsupported_parameter"),
            (TEXT, {"stop": ["x"]}, "unsupported_parameter"),
            (remote, {}, "image_url_scheme"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=MODEL, messages=messages, **extra)
            assert refused.value.code == code
    return "400 with its code"


@TABLE.row("`OpenAI(api_key)` that is wrong")
def wrong_key(bench: Bench) -> str:
    url = f"{bench.keyed.url}/v1"
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        assert client.models.list().data
    return "`AuthenticationError`"
