"""Pictures are cut out of a body and put back; what is left says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bodies.slices import (
    MIN_SLICE_BYTES,
    Slice,
    find_cuts,
    slice_of,
    with_slices,
    without,
)
from server.bodies.stored import BLOCK_BYTES, StoredBody
from tests.unit.bodies.bodies import stored

LONG = "data:image/png;base64," + "A" * MIN_SLICE_BYTES
WINDOW = 256 << 10


def restored(value: Any, body: StoredBody) -> Any:
    """A tree with the texts that its slices stand for."""
    if isinstance(value, dict):
        return {key: restored(item, body) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item, body) for item in value]
    found = slice_of(value) if isinstance(value, str) else None
    return value if found is None else body.read(found.start, found.stop - found.start).decode()


def check(content: bytes, num_cuts: int) -> None:
    for in_file in (False, True):
        body = stored(content, in_file=in_file)
        cuts = find_cuts(body)
        slim = without(body, cuts)
        assert len(cuts) == num_cuts
        assert restored(json.loads(slim), body) == json.loads(content)
        text = json.dumps(json.loads(slim)).encode()
        sent = b"".join(
            body.read(part.start, part.stop - part.start) if isinstance(part, Slice) else part
            for part in with_slices(body, text)
        )
        assert json.loads(sent) == json.loads(content)
        body.release()


def test_long_pictures_are_cut_wherever_they_stand() -> None:
    groups = [{"request": {"image_url": LONG + str(i), "x": 1}} for i in range(5)]
    check(json.dumps({"a": "b", "groups": groups, "image_url": LONG}).encode(), 6)
    check(json.dumps({"groups": groups}, indent=2).encode(), 5)
    part = {"type": "image_url", "image_url": {"url": LONG}}
    check(json.dumps({"messages": [{"role": "user", "content": [part, part]}]}).encode(), 2)


@pytest.mark.parametrize("offset", range(-90, 10))
def test_a_picture_across_the_edge_of_a_window_is_found(offset: int) -> None:
    head = json.dumps({"a": "x" * (WINDOW + offset - 40)})[:-1]
    check(f'{head}, "image_url" : "{LONG}"}}'.encode(), 1)


def test_a_picture_longer_than_a_block_is_cut_whole() -> None:
    url = "data:;base64," + "B" * (3 * BLOCK_BYTES + 17)
    check(json.dumps({"image_url": url, "then": "x", "other": {"image_url": LONG}}).encode(), 2)


def test_equal_pictures_have_one_name() -> None:
    body = stored(json.dumps([{"image_url": LONG}, {"image_url": LONG}]).encode())
    first, second = find_cuts(body)
    assert first.slice == second.slice
    assert first.start != second.start


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"image_url": LONG[: MIN_SLICE_BYTES - 1]}),
        json.dumps({"question": LONG}),
        json.dumps({"image_url": LONG + "\\"}),
        json.dumps({"image_url": LONG + "\n"}),
        json.dumps({"image_url": LONG.replace("/", "\\/")}).replace("\\\\/", "\\/"),
        json.dumps({"image_url": LONG + "é"}, ensure_ascii=False),
        json.dumps({"image_url": "x" + LONG}),
        json.dumps({"image_url": [LONG]}),
        json.dumps({'a"image_url': LONG}),
        json.dumps({"a": '"image_url": ' + json.dumps(LONG)}),
        json.dumps(LONG),
        '{"image_url": "data:"}',
    ],
)  # fmt: skip
def test_what_is_not_cut(content: str) -> None:
    check(content.encode(), 0)


@pytest.mark.parametrize("end", [b"", b"\\", b"\x00", b"\xff"])
def test_a_body_that_breaks_off_is_left_alone(end: bytes) -> None:
    content = b'{"image_url": "' + LONG.encode() + end
    body = stored(content)
    assert find_cuts(body) == []
    assert without(body, []) == content


def test_nobody_can_name_a_slice_of_another_body() -> None:
    body, other = stored(b"x"), stored(b"y")
    text = f'{{"a": "slice:{other.id}:0:1"}}'.encode()
    assert with_slices(body, text) == [text]
    assert slice_of("slice:0:1") is None


@given(
    st.recursive(
        st.none() | st.text(max_size=8) | st.just(LONG) | st.integers(),
        lambda part: (
            st.lists(part, max_size=3)
            | st.dictionaries(
                st.sampled_from(["image_url", "url", "a", '"image_url": "data:']), part
            )
        ),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_whatever_the_json_it_says_the_same(tree: Any, is_ascii: bool) -> None:
    content = json.dumps({"a": tree}, ensure_ascii=is_ascii).encode()
    body = stored(content)
    assert restored(json.loads(without(body, find_cuts(body))), body) == json.loads(content)
