"""Holds answers against the OpenAPI document: the status is there, and the body fits its schema."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema_rs

NOWHERE = (403, 404, 405)
"""The statuses where no operation is."""

DOCS = (
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/openapi.json",
)
"""The document itself and the page that shows it: the only routes that it does not name."""


class Described:
    """One document; its validators are built once."""

    def __init__(self, document: dict[str, Any]):
        self._document = document
        self._operations = [
            (re.compile(_pattern(path)), path, operations)
            for path, operations in document["paths"].items()
        ]
        self._validators: dict[str, Any] = {}

    def check(self, method: str, path: str, status: int, content_type: str, body: bytes) -> None:
        """Raise unless the document allows this answer.

        Raises:
            AssertionError: It is not in the document, or not as it says.
        """
        if path in DOCS:
            return
        operation = self.operation("GET" if method == "HEAD" else method, path)
        if operation is None:
            assert status in NOWHERE, f"{method} {path}: {status}"
            return
        where = f"{method} {path}: {status}"
        assert str(status) in operation["responses"], f"{where} is not described: {body[:300]}"
        contents = operation["responses"][str(status)].get("content", {})
        kind = content_type.partition(";")[0]
        assert kind in contents, f"{where} is {kind}, the document says {list(contents)}"
        schema = contents[kind].get("schema")
        if kind == "application/json" and schema and method != "HEAD":
            error = self._first_error(schema, body)
            assert error is None, f"{where}: {error}"

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What the document says of a call; None if nothing."""
        for pattern, _, operations in self._operations:
            if pattern.fullmatch(path):
                return operations.get(method.lower())
        return None

    def _first_error(self, schema: dict[str, Any], body: bytes) -> str | None:
        key = repr(schema)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = jsonschema_rs.validator_for(whole)
        for error in self._validators[key].iter_errors(_value(body)):
            return f"{error.message} at {list(error.instance_path)}"
        return None


def _value(body: bytes) -> Any:
    """The JSON of a body, strictly: NaN and Infinity are none."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(body, parse_constant=refuse)


def hook(described: Described) -> Any:
    """An event hook for a client: checks each answer to a request on our routes."""

    async def check(answer: httpx.Response) -> None:
        await answer.aread()
        request = answer.request
        described.check(
            request.method,
            re.sub(r"/{2,}", "/", request.url.path).rstrip("/") or "/",
            answer.status_code,
            answer.headers.get("content-type", ""),
            answer.content,
        )

    return check


def _pattern(path: str) -> str:
    pattern = re.sub(r"\\\{(model_id|checkpoint_id)\\\}", ".+", re.escape(path))  # with slashes
    return re.sub(r"\\\{[^{}]+\\\}", "[^/]+", pattern)
