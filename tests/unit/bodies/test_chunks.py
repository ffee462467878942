"""Chunks of a body: every byte in its order, whatever the sizes and whatever a write takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bodies.chunks import MAX_AT_ONCE, SMALL_BYTES, Chunks, write_all

SIZES = st.lists(st.sampled_from([1, 2, 100, SMALL_BYTES - 1, SMALL_BYTES, 70_000]), max_size=30)


@given(SIZES)
def test_what_is_taken_is_what_came_and_nothing_is_left(sizes: list[int]) -> None:
    came = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    chunks = Chunks()
    for chunk in came:
        chunks.add(chunk)
    assert chunks.num_bytes == sum(sizes)
    assert b"".join(chunks.take()) == b"".join(came)
    assert (chunks.num_bytes, chunks.take()) == (0, [])


def test_a_body_in_drops_is_few_objects() -> None:
    chunks = Chunks()
    for _ in range(10_000):
        chunks.add(b"x")
    assert len(chunks.take()) == 1


@pytest.mark.parametrize("most", [1, 7, 5000, 1 << 20])
def test_a_file_gets_all_of_it_whatever_one_call_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    chunks = [b"", b"abc", bytearray(b"d" * 5000), b"", b"efg" * 7, b"h" * 12]
    num_calls = 0

    def stingy(file_descriptor: int, buffers: list[memoryview]) -> int:
        nonlocal num_calls
        num_calls += 1
        return os.write(file_descriptor, b"".join(buffers)[:most])

    monkeypatch.setattr(os, "writev", stingy)
    with (tmp_path / "file").open("wb", buffering=0) as file:
        write_all(file, chunks)
    content = b"".join(chunks)
    assert (tmp_path / "file").read_bytes() == content
    assert num_calls == -(-len(content) // most)


def test_more_buffers_than_one_call_may_have_are_written(tmp_path: Path) -> None:
    chunks = [bytes([number % 251]) for number in range(3 * MAX_AT_ONCE + 1)]
    with (tmp_path / "file").open("wb", buffering=0) as file:
        write_all(file, chunks)
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)


def test_a_file_that_was_closed_gets_nothing_more(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        write_all(file, [b"x"])
