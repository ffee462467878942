"""Every place of the API where a caller puts a text, from the OpenAPI document.

A route, a parameter or a field that has no example here fails `missing_examples`, so that what is
new is tried as well.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tests.factories import make_image_url, make_request, make_rollout, make_sft_group

Pointer = tuple[str | int, ...]
UNKNOWN = "01JZ3V6T8Q5W1N2X4C7B9M0KHD"
ACTIONS = {
    ("POST", "/v1/batch"): "mpu-create",
    ("PUT", "/v1/batch/{file_id}"): "mpu-uploadpart",
    ("POST", "/v1/batch/{file_id}"): "mpu-complete",
    ("DELETE", "/v1/batch/{file_id}"): "mpu-abort",
}
"""What says in the query which call of a batch is meant."""

CHAT = "/v1/chat/completions"
KEY = "~key"
"""Ends a pointer to the name of a field that a caller chooses."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Things that exist, for parameters and fields that are not being tried."""

    finetune_id: str
    step: int
    token: str

    def parameters(self) -> dict[str, str]:
        """An example of each parameter in a path or a query."""
        return {
            "finetune_id": self.finetune_id,
            "step": str(self.step),
            "token": self.token,
            "limit": "5",
            "cursor": "",
            "name": "eval/accuracy",
            "from_step": "0",
            "from_ms": "0",
            "action": "mpu-create",
            "uploadId": UNKNOWN,
            "partNumber": "1",
            "file_id": UNKNOWN,
            "to_ms": "1",
            "by": "hour",
            "adapter_id": self.finetune_id,
            "checkpoint_id": "chk_001",
            "model_id": f"moondream/{self.finetune_id}@{self.step}",
        }

    def bodies(self) -> dict[str, list[dict[str, Any]]]:
        """Examples of each body, by path, which together have every field that holds a text."""
        model = f"moondream/{self.finetune_id}@{self.step}"
        query, point = make_request("query"), make_request("point")
        for request in (query, point):
            del request["skill"]
        train = {"finetune_id": self.finetune_id, "lr": 0.0}
        rollout = make_rollout(output={"answer": "a"}, skill="query", finish_reason="stop")
        thought = {"answer": "a", "reasoning": {"text": "b", "grounding": []}}
        return {
            "/v1/tuning/finetunes": [
                {"name": "copy", "rank": 8, "from_checkpoint": f"{self.finetune_id}@{self.step}"}
            ],
            "/v1/tuning/adapters": [
                {"name": "my copy", "rank": 8, "from_checkpoint": f"{self.finetune_id}/chk_001"}
            ],
            "/v1/tuning/rollouts": [
                {"adapter_id": self.finetune_id, "request": make_request("query")},
                {"finetune_id": self.finetune_id, "request": make_request("query")},
                {"finetune_id": self.finetune_id, "request": make_request("detect")},
                {"finetune_id": self.finetune_id, "request": make_request("point")},
            ],
            "/v1/tuning/train_step": [
                {
                    **train,
                    "idempotency_key": "k",
                    "options": {"loss": "grpo", "advantage_scale": "none"},
                    "groups": [
                        make_sft_group(
                            request=make_request("query", reasoning=True), target=thought
                        ),
                        make_sft_group("point"),
                        {
                            "mode": "rl",
                            "request": make_request("query"),
                            "rollouts": [rollout],
                            "rewards": [0.5],
                        },
                    ],
                },
                {
                    "adapter_id": self.finetune_id,
                    "lr": 0.0,
                    "groups": [make_sft_group("point")],
                },
            ],
            "/v1/tuning/finetunes/{finetune_id}/metrics": [
                {"step": self.step, "metrics": {"eval/accuracy": 0.5}}
            ],
            "/v1/batch/{file_id}": [{"parts": [{"partNumber": 1, "etag": "e"}], "model": model}],
            CHAT: [
                {
                    "model": model,
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": make_image_url()}},
                                {"type": "text", "text": "How many?"},
                            ],
                        },
                        {"role": "assistant", "content": "Two."},
                        {"role": "user", "content": "Sure?"},
                    ],
                }
            ],
            "/v1/query": [{**query, "model": model}],
            "/v1/caption": [
                {"image_url": make_image_url(), "length": "short", "model": model},
            ],
            "/v1/point": [{**point, "model": model}],
            "/v1/detect": [{**point, "model": model}],
            "/v1/segment": [{**point, "model": model}],
        }


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place for a text."""

    method: str
    path: str
    place: str
    pointer: Pointer
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.place} {'.'.join(map(str, self.pointer))}"

    def request(self, name: str, known: Known) -> tuple[str, str, bytes]:
        """Method, address and body with a text in this place."""
        examples = known.parameters()
        address, body = self.path, copy.deepcopy(self.body)
        if self.place == "path":
            examples[str(self.pointer[0])] = name
        for parameter, value in examples.items():
            address = address.replace(f"{{{parameter}}}", quote(value, safe=""))
        query: dict[str, str] = {}
        if (action := ACTIONS.get((self.method, self.path))) is not None:
            query = {"action": action, "uploadId": UNKNOWN, "partNumber": "1"}
        if self.place == "query":
            query[str(self.pointer[0])] = name
        if query:
            address += "?" + urlencode(query)
        if self.place == "body":
            assert body is not None
            _put(body, self.pointer, name)
        return self.method, address, b"" if body is None else json.dumps(body).encode()


def slots(document: Mapping[str, Any], known: Known) -> list[Slot]:
    """Every place, in the order of the document."""
    return list(_slots(document, known))


def missing_examples(document: Mapping[str, Any], known: Known) -> list[str]:
    """What the document has and we know no example of; none is what is wanted."""
    missing: list[str] = []
    for method, path, operation in _operations(document):
        missing += [
            f"{method} {path}: parameter {parameter['name']}"
            for parameter in operation.get("parameters", ())
            if parameter["name"] not in known.parameters()
        ]
        bodies = known.bodies().get(path, [])
        schema = _schema_of(operation)
        if schema is None:
            continue
        named = {
            str(part) for body in bodies for pointer, _ in _texts(body, ()) for part in pointer
        }
        missing += [
            f"{method} {path}: field {field}"
            for field in sorted(_text_fields(schema, document, frozenset()))
            if field not in named
        ]
        missing += [] if bodies else [f"{method} {path}: body"]
    return missing


def picture_routes(document: Mapping[str, Any], known: Known) -> Iterator[Slot]:
    """The places for pictures, of each route."""
    for slot in slots(document, known):
        is_picture = slot.pointer[-1] == "image_url" or slot.pointer[-2:] == ("image_url", "url")
        if slot.place == "body" and is_picture:
            yield slot


def _slots(document: Mapping[str, Any], known: Known) -> Iterator[Slot]:
    for method, path, operation in _operations(document):
        bodies = known.bodies().get(path, []) if _schema_of(operation) is not None else []
        first = bodies[0] if bodies else None
        for parameter in operation.get("parameters", ()):
            yield Slot(
                method=method,
                path=path,
                place=parameter["in"],
                pointer=(parameter["name"],),
                body=first,
            )
        for body in bodies:
            for pointer, _ in _texts(body, ()):
                yield Slot(method=method, path=path, place="body", pointer=pointer, body=body)
            yield Slot(method=method, path=path, place="body", pointer=(KEY,), body=body)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _schema_of(operation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    contents = operation.get("requestBody", {}).get("content", {})
    return next((content["schema"] for content in contents.values()), None)


def _text_fields(
    schema: Mapping[str, Any], document: Mapping[str, Any], seen: frozenset[str]
) -> set[str]:
    """The names of all fields below a schema that may hold a text."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in seen:
            return set()
        return _text_fields(document["components"]["schemas"][name], document, seen | {name})
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    inner += [schema[key] for key in ("items",) if isinstance(schema.get(key), dict)]
    found = {field for part in inner for field in _text_fields(part, document, seen)}
    for field, part in schema.get("properties", {}).items():
        if _holds_text(part):
            found.add(field)
        found |= _text_fields(part, document, seen)
    return found


def _holds_text(schema: Mapping[str, Any]) -> bool:
    parts = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return any(part.get("type") == "string" for part in parts)


def _texts(value: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    """Every text of an example and where it stands; names of metrics are texts as well."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        if pointer and pointer[-1] == "metrics":
            yield (*pointer, KEY), next(iter(value))
        for key, item in value.items():
            yield from _texts(item, (*pointer, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*pointer, index))


def _put(body: Any, pointer: Pointer, name: str) -> None:
    """Change one text, or add a field of that name."""
    for part in pointer[:-1]:
        body = body[part]
    if pointer[-1] == KEY:
        body[name] = 1.0
    else:
        body[pointer[-1]] = name
