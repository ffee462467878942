"""Whether an answer has the shape that the SDK's own types declare."""

from __future__ import annotations

from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def assert_fits(value: Any, kind: Any, at: str = "answer") -> None:
    """Check a value against a type of `moondream.types`; further keys are allowed, as in JSON.

    `int` takes any number: the types of reasoning say `int` where shares of the picture are meant.

    Raises:
        AssertionError: It does not fit; says where.
    """
    if is_typeddict(kind):
        assert isinstance(value, dict), f"{at} is no object: {value!r:.80}"
        for name, hint in get_type_hints(kind).items():
            if name in value:
                assert_fits(value[name], hint, f"{at}.{name}")
        return
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:
        assert _fits_one(value, arguments), f"{at} fits none of {arguments}: {value!r:.80}"
    elif origin is Literal:
        assert value in arguments, f"{at} is {value!r}, not one of {arguments}"
    elif origin is list:
        assert isinstance(value, list), f"{at} is no list: {value!r:.80}"
        for index, item in enumerate(value):
            assert_fits(item, arguments[0], f"{at}[{index}]")
    elif kind in (int, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        assert is_number, f"{at} is no number: {value!r:.80}"
    elif kind is not object:
        assert isinstance(value, kind), f"{at} is not {kind.__name__}: {value!r:.80}"


def _fits_one(value: Any, kinds: tuple[Any, ...]) -> bool:
    for kind in kinds:
        try:
            assert_fits(value, type(None) if kind is None else kind)
        except (AssertionError, TypeError):
            continue
        return True
    return False
