"""Frozen dataclasses to plain JSON values and back, by their annotations.

Knows what the contract uses: dataclasses, unions tagged by a Literal `skill` or `mode` field,
optional values, tuples, enums, dicts of plain values and scalars. It trusts its peer to be the
other process of the same release; input of callers is validated before it gets here.
"""

from __future__ import annotations

import dataclasses
import types
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_TAGS = ("skill", "mode")


def to_plain(value: Any) -> Any:
    """Return the JSON form of a contract value; dataclasses become dicts, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def from_plain(cls: type[T], value: Any) -> T:
    """Build `cls` from its JSON form; fields that are absent take their defaults.

    Raises:
        TypeError: The value does not have the shape of `cls`.
    """
    return cast("T", _build(cls, value))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin is None:
        return _build_simple(hint, value)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return _build_union(arguments, value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in value)
        return tuple(_build(a, item) for a, item in zip(arguments, value, strict=True))
    if origin is Literal:
        if value not in arguments:
            raise TypeError(f"expected one of {arguments}, got {value!r}")
        return value
    if origin in (dict, list):
        return value
    raise TypeError(f"the codec does not know {hint!r}")


def _build_simple(hint: Any, value: Any) -> Any:
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(cast("type", hint), value)
    if issubclass(hint, Enum):
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if not isinstance(value, hint):
        raise TypeError(f"expected {hint.__name__}, got {type(value).__name__}")
    return value


def _build_dataclass(cls: type, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object for {cls.__name__}, got {type(value).__name__}")
    fields, hints = cast("dict[str, Any]", value), _hints(cls)
    return cls(**{key: _build(hints[key], item) for key, item in fields.items()})


def _build_union(arguments: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in arguments:
        return None
    members = [a for a in arguments if a is not type(None)]
    if len(members) == 1:
        return _build(members[0], value)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for tag in _TAGS:
            for member in members:
                hint = _hints(member).get(tag)
                if hint is not None and fields.get(tag) in get_args(hint):
                    return _build(member, fields)
        raise TypeError(f"an object with the fields {sorted(fields)} fits none of {members}")
    raise TypeError(f"{type(value).__name__} fits none of {members}")
