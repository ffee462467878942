"""The JSON that we send: no NaN, no Infinity; both become null, and the log says so."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterator
from typing import Any, cast

import structlog
from pydantic_core import from_json

_log = structlog.get_logger("server.json")

LONG_TEXT_CHARACTERS = 64 << 10
"""Longer texts are made into JSON in pieces of so many characters."""


def to_json(value: Any) -> bytes:
    """Return the UTF-8 bytes of a plain value; numbers that are not finite become null."""
    try:
        return _dump(value)
    except ValueError:
        _log.warning("non_finite_numbers_sent_as_null")
        return _dump(_without_non_finite(value))


def to_json_parts(value: Any) -> list[bytes]:
    """The bytes of `to_json`, for a value that may hold long texts, which are spread over parts.

    The interpreter makes the JSON of a text in one go: that of ten million characters would keep
    every other thread waiting for 40 ms, and the event loop with them. What is left without the
    long texts is still made in one go.
    """
    long_texts: list[str] = []
    mark = secrets.token_hex(16)  # so that no text of a caller can be one

    def marked(item: Any) -> Any:
        if isinstance(item, str):
            if len(item) <= LONG_TEXT_CHARACTERS:
                return item
            long_texts.append(item)
            return f"{mark}:{len(long_texts) - 1}"
        if isinstance(item, dict):
            pairs = cast("dict[str, Any]", item).items()
            return {marked(key): marked(field) for key, field in pairs}
        if isinstance(item, (list, tuple)):
            return [marked(part) for part in cast("list[Any]", item)]
        return item

    parts: list[bytes] = []
    for at, part in enumerate(re.split(rf"{mark}:(\d+)".encode(), to_json(marked(value)))):
        parts += _inside_quotes(long_texts[int(part)]) if at % 2 else [part]
    return parts


def stands_as_it_is(text: bytes) -> bool:
    """Whether a text is its own JSON, between quotes: printable ASCII without `"` and backslash.

    These looks at 256 KiB take 65 us together; a table of the characters would take 200.
    """
    if not text.isascii() or any(mark in text for mark in (b'"', b"\\", b"\x7f")):
        return False
    try:
        from_json(b'"' + text + b'"')  # which refuses control characters
    except ValueError:
        return False
    return True


def _inside_quotes(text: str) -> Iterator[bytes]:
    for at in range(0, len(text), LONG_TEXT_CHARACTERS):
        piece = text[at : at + LONG_TEXT_CHARACTERS]
        plain = piece.encode(errors="surrogatepass")
        yield plain if stands_as_it_is(plain) else _dump(piece)[1:-1]


def _dump(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {key: _without_non_finite(item) for key, item in pairs}
    if isinstance(value, (list, tuple)):
        return [_without_non_finite(item) for item in cast("list[Any]", value)]
    return value
