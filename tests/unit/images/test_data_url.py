"""Which data URLs are accepted, and what the others are told."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import ImageUrlSchemeError
from server.images.base64_text import NotBase64Error, TooManyBytesError, parse_base64
from server.images.data_url import as_ascii, payload_of

LIMIT = 1000


def read(url: str) -> bytes:
    """What the service and a decoding child make of a URL together."""
    return parse_base64(bytes(payload_of(as_ascii(url))), max_bytes=LIMIT)


def read_payload(payload: str) -> bytes:
    return parse_base64(as_ascii(payload), max_bytes=LIMIT)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/jpeg;base64,/+8A",
        "data:image/jpeg;base64,_-8A",
        "data:;base64,/+8A",
        "data:text/html;charset=utf-8;base64,/+8A",
        "DATA:image/PNG;BASE64,/+8A",
        " data:image/png;base64,/+\r\n8A\n",
        "\u00a0data:image/png;base64,/+8A\u2003",
    ],
)
def test_any_base64_data_url_is_accepted_whatever_type_it_declares(url: str) -> None:
    assert read(url) == b"\xff\xef\x00"


@pytest.mark.parametrize("payload", ["QQ==", "QQ=", "QQ", "Q Q"])
def test_missing_padding_is_tolerated(payload: str) -> None:
    assert read_payload(payload) == b"A"


@given(st.binary(min_size=1, max_size=200), st.booleans(), st.booleans(), st.integers(1, 80))
def test_every_spelling_of_the_same_bytes_is_read(
    data: bytes, is_url_safe: bool, is_padded: bool, line_length: int
) -> None:
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    text = encode(data).decode()
    text = text if is_padded else text.rstrip("=")
    lines = [text[i : i + line_length] for i in range(0, len(text), line_length)]
    assert read_payload("\r\n".join(lines)) == data


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.jpg",
        "http://example.com/cat.jpg",
        "HTTPS://example.com/a,b;base64,QQ==",
        "file:///etc/passwd",
        "/9j/4AAQSkZJRg==",
        "data:image/png,raw",
        "data:image/png;base64",
        "data:" + "x" * 5000 + ";base64,QQ==",
        "",
        "   ",
    ],
)
def test_everything_else_is_told_to_send_a_data_url(url: str) -> None:
    with pytest.raises(ImageUrlSchemeError, match="Images must be sent as base64 data URLs"):
        read(url)


@pytest.mark.parametrize("payload", ["A", "AAAAA", "QQ==QQ==", "Q*Q=", "Qé==", "\ud800", "", "=="])
def test_a_payload_that_is_not_base64_is_a_decode_error_without_echo(payload: str) -> None:
    with pytest.raises(NotBase64Error) as caught:
        read_payload(payload)
    assert payload == "" or payload == "A" or payload not in str(caught.value)


def test_the_limit_counts_decoded_bytes_and_is_inclusive() -> None:
    exact = base64.b64encode(bytes(LIMIT))
    assert len(parse_base64(exact, max_bytes=LIMIT)) == LIMIT
    with pytest.raises(TooManyBytesError, match="1001 bytes"):
        parse_base64(base64.b64encode(bytes(LIMIT + 1)), max_bytes=LIMIT)
