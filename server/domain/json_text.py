"""The JSON that we send: no NaN, no Infinity; both become null, and the log says so."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import structlog

_log = structlog.get_logger("server.json")


def to_json(value: Any) -> bytes:
    """Return the UTF-8 bytes of a plain value; numbers that are not finite become null."""
    try:
        return _dump(value)
    except ValueError:
        _log.warning("non_finite_numbers_sent_as_null")
        return _dump(_without_non_finite(value))


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
