"""Messages survive the way to bytes and back, and nonsense is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.framing import PREFIX, Message, decode, encode

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
headers = st.dictionaries(st.sampled_from(["kind", "id", "result", "text"]), plain)


def joined(message: Message) -> tuple[int, int, bytes]:
    data = b"".join(encode(message))
    header_length, body_length = PREFIX.unpack(data[: PREFIX.size])
    return header_length, body_length, data[PREFIX.size :]


@given(headers, st.lists(st.binary(max_size=50), max_size=4))
def test_every_message_survives_the_round_trip(header: dict, blobs: list[bytes]) -> None:
    header_length, body_length, data = joined(Message(header=header, blobs=blobs))
    assert len(data) == header_length + body_length
    message = decode(data[:header_length], data[header_length:])
    assert message.header == header
    assert [bytes(blob) for blob in message.blobs] == blobs


def test_blobs_are_not_copied_on_either_side() -> None:
    blob = bytes(1000)
    parts = encode(Message(header={}, blobs=[blob]))
    assert parts[-1] is blob
    body = bytearray(b"ab")
    message = decode(b'{"blobs": [1, 1]}', memoryview(body))
    body[1] = ord("z")
    assert bytes(message.blobs[1]) == b"z"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused_before_anything_is_sent(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(Message(header={"reward": [number]}))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"[1]", b""),
        (b'"text"', b""),
        (b'{"blobs": [1]}', b""),
        (b'{"blobs": [1, 1]}', b"abc"),
        (b"{", b""),
        (b"\xff\xfe", b""),
        (b'{"kind": "stop"}', b"a body that nobody announced"),
    ],
)
def test_what_is_no_message_is_a_value_error(header: bytes, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(header, body)


def test_the_prefix_holds_both_lengths_in_network_order() -> None:
    header_length, body_length, data = joined(Message(header={"kind": "stop"}, blobs=[b"abc"]))
    assert json.loads(data[:header_length]) == {"kind": "stop", "blobs": [3]}
    assert body_length == 3
    assert PREFIX.size == 12
