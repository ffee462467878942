"""The JSON that we send: in parts it says the same, and what stands as it is needs no escape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import json_text
from server.domain.json_text import LONG_TEXT_CHARACTERS, stands_as_it_is, to_json, to_json_parts

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_the_parts_are_the_same_bytes(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "LONG_TEXT_CHARACTERS", 3)  # so that most texts are long ones
        parts = to_json_parts(value)
    assert b"".join(parts) == to_json(value)


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\n", '"', "\\", "\U0001f600", "\ud800", "\x7f"])
def test_no_part_of_a_long_text_is_long(letter: str) -> None:
    text = letter * (3 * LONG_TEXT_CHARACTERS + 5)
    parts = to_json_parts({"a": [1, text], text: (2, "b")})
    assert json.loads(b"".join(parts)) == {"a": [1, text], text: [2, "b"]}
    assert max(map(len, parts)) <= LONG_TEXT_CHARACTERS * len(json.dumps(letter)[1:-1])


def test_numbers_that_are_not_finite_are_null_also_in_parts() -> None:
    long = "x" * (LONG_TEXT_CHARACTERS + 1)
    assert b"".join(to_json_parts([float("nan"), long])) == b'[null,"' + long.encode() + b'"]'


@pytest.mark.parametrize("length", [1, 15, 64])
def test_each_byte_at_each_place_of_a_text_is_seen(length: int) -> None:
    for at in range(length):
        for byte in range(256):
            text = bytearray(b"x" * length)
            text[at] = byte
            assert stands_as_it_is(bytes(text)) == (0x20 <= byte < 0x7F and byte not in b'"\\')


@given(st.binary(max_size=40))
def test_what_stands_as_it_is_is_its_own_json(text: bytes) -> None:
    is_plain = text.isascii() and all(byte >= 0x20 and byte not in b'"\\\x7f' for byte in text)
    assert stands_as_it_is(text) == is_plain
    if is_plain:
        assert json.loads(b'"' + text + b'"') == text.decode()
