"""Where bodies lie, when they are held, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.bodies.arrival import FILE_ABOVE_BYTES, NEVER_HELD_BYTES
from server.bodies.store import BodyStore
from server.domain.errors import BodyTooLargeError, OverloadedError, StorageFullError
from tests.service import until
from tests.unit.bodies.bodies import chunks

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def make_store(folder: Path, **changes: Any) -> BodyStore:
    limits = {"max_bytes": 64 * MIB, "max_memory_bytes": 16 * MIB, "min_free_bytes": 0}
    return BodyStore(folder / "spool", **{**limits, **changes})


async def receive(store: BodyStore, content: bytes, **changes: Any) -> Any:
    options = {"announced": len(content), "max_bytes": 1 << 30, "within": 60.0}
    return await store.receive(chunks(content), **{**options, **changes})


def is_empty(store: BodyStore) -> bool:
    return (store.room.used, store.memory.used, store.num_unwritten_bytes) == (0, 0, 0)


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("num_bytes", [0, 1, 70_000, FILE_ABOVE_BYTES, FILE_ABOVE_BYTES + 1])
async def test_a_body_comes_back_as_it_came(
    tmp_path: Path, num_bytes: int, is_announced: bool
) -> None:
    store, before = make_store(tmp_path), num_open_files()
    content = os.urandom(num_bytes)
    body = await receive(store, content, announced=num_bytes if is_announced else None)
    assert body.read(0, num_bytes + 5) == content
    assert body.read(3, 4) == content[3:7]
    assert b"".join(body.blocks(1, num_bytes)) == content[1:]
    assert body.fingerprint == hashlib.sha256(content).digest()
    assert body.is_in_file is (num_bytes > FILE_ABOVE_BYTES)
    assert store.memory.used == (0 if body.is_in_file else num_bytes)
    assert store.room.used >= (num_bytes if num_bytes > NEVER_HELD_BYTES else 0)
    assert store.num_unwritten_bytes == 0
    body.release()
    assert is_empty(store)
    assert num_open_files() == before


async def test_small_bodies_go_to_files_when_the_memory_is_used(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_memory_bytes=10 * MIB)
    bodies = [await receive(store, bytes(6 * MIB)) for _ in range(3)]
    assert [body.is_in_file for body in bodies] == [False, True, True]
    assert store.memory.used == 6 * MIB
    for body in bodies:
        body.release()
    assert is_empty(store)


async def test_the_files_have_no_names(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    body = await receive(store, bytes(9 * MIB))
    assert body.is_in_file
    assert list((tmp_path / "spool").iterdir()) == []
    body.release()


async def test_what_an_earlier_process_left_is_swept(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.sweep()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "tmpabc").write_bytes(b"x")
    store.sweep()
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("num_bytes", [2 * MIB, 12 * MIB])
async def test_a_body_over_its_limit_leaves_nothing(
    tmp_path: Path, num_bytes: int, is_announced: bool
) -> None:
    store, before = make_store(tmp_path), num_open_files()
    announced = num_bytes if is_announced else None
    with pytest.raises(BodyTooLargeError, match=f"larger than {num_bytes - 1} bytes"):
        await receive(store, bytes(num_bytes), announced=announced, max_bytes=num_bytes - 1)
    assert is_empty(store)
    assert num_open_files() == before


@pytest.mark.parametrize("num_bytes", [2 * MIB, 12 * MIB])
async def test_a_caller_that_goes_in_the_middle_leaves_nothing(
    tmp_path: Path, num_bytes: int
) -> None:
    store, before = make_store(tmp_path), num_open_files()

    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunks(bytes(num_bytes - 1000)):
            yield chunk
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.receive(broken(), announced=num_bytes, max_bytes=1 << 30, within=1)
    assert is_empty(store)
    assert num_open_files() == before


async def test_a_body_is_not_read_before_there_is_room(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=10 * MIB)
    first = await receive(store, bytes(9 * MIB))
    num_read = 0

    async def watched() -> AsyncIterator[bytes]:
        nonlocal num_read
        async for chunk in chunks(bytes(2 * MIB)):
            num_read += len(chunk)
            yield chunk

    second = asyncio.create_task(
        store.receive(watched(), announced=2 * MIB, max_bytes=1 << 30, within=60.0)
    )
    await until(lambda: store.room.num_waiting)
    small = await receive(store, bytes(NEVER_HELD_BYTES))  # is not held up by it
    assert num_read == 0
    first.release()
    body = await second
    assert num_read == 2 * MIB
    body.release()
    small.release()
    assert is_empty(store)


async def test_a_body_without_room_is_refused_in_the_end(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=10 * MIB)
    first = await receive(store, bytes(9 * MIB))
    for announced in (2 * MIB, None):
        with pytest.raises(OverloadedError, match=r"not read for 0.01 s: .* of 10485760 bytes"):
            await receive(store, bytes(2 * MIB), announced=announced, within=0.01)
    first.release()
    assert is_empty(store)


async def test_bodies_of_unknown_length_do_not_wait_for_each_other(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_bytes=16 * MIB)
    may_go_on = asyncio.Event()

    async def halting() -> AsyncIterator[bytes]:
        yield bytes(6 * MIB)
        await may_go_on.wait()
        async for chunk in chunks(bytes(4 * MIB)):
            yield chunk

    receiving = [
        asyncio.create_task(
            store.receive(halting(), announced=None, max_bytes=1 << 30, within=60.0)
        )
        for _ in range(2)
    ]
    await until(lambda: store.room.used >= 12 * MIB)
    may_go_on.set()
    outcomes = await asyncio.gather(*receiving, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 1
    assert isinstance(refused[0], OverloadedError)
    assert "without Content-Length" in refused[0].message
    assert len(refused[0].message) <= 300
    (body,) = (outcome for outcome in outcomes if not isinstance(outcome, BaseException))
    assert body.num_bytes == 10 * MIB
    body.release()
    assert is_empty(store)


@pytest.mark.parametrize("is_announced", [True, False])
async def test_what_the_disk_cannot_take_is_refused_at_once_and_holds_nobody_up(
    tmp_path: Path, is_announced: bool
) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = make_store(tmp_path, min_free_bytes=2 * free)
    announced = 9 * MIB if is_announced else None
    with pytest.raises(StorageFullError, match=r"\d+ bytes are needed, \d+ are free"):
        await receive(store, bytes(9 * MIB), announced=announced)
    (await receive(store, bytes(7 * MIB))).release()  # stays in memory
    assert is_empty(store)


async def test_a_short_disk_holds_up_nobody_while_others_wait_for_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = make_store(tmp_path, max_bytes=8 * MIB, min_free_bytes=2 * free)
    first = await receive(store, bytes(7 * MIB))
    waiting = asyncio.create_task(receive(store, bytes(6 * MIB)))
    await until(lambda: store.room.num_waiting)
    with pytest.raises(StorageFullError):
        await receive(store, bytes(9 * MIB))
    first.release()
    (await waiting).release()
    assert is_empty(store)


async def test_small_bodies_that_find_no_memory_need_the_disk_as_well(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = make_store(tmp_path, max_memory_bytes=MIB, min_free_bytes=2 * free)
    with pytest.raises(StorageFullError):
        await receive(store, bytes(2 * MIB))
    assert is_empty(store)


async def test_what_is_promised_to_the_disk_counts_before_it_is_there(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    began = asyncio.Event()
    goes_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(MIB)
        began.set()
        await goes_on.wait()
        yield bytes(11 * MIB)

    body = asyncio.create_task(
        store.receive(slow(), announced=12 * MIB, max_bytes=1 << 30, within=1.0)
    )
    await began.wait()
    assert store.num_unwritten_bytes == 11 * MIB
    goes_on.set()
    (await body).release()
    assert is_empty(store)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_ends_in_the_middle_is_a_full_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store, before = make_store(tmp_path), num_open_files()

    def full(_file_descriptor: int, _chunks: object) -> int:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StorageFullError, match="9437184 bytes are needed"):
        await receive(store, bytes(9 * MIB))
    assert is_empty(store)
    assert num_open_files() == before


async def test_a_body_ends_with_its_last_holder(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    body = await receive(store, bytes(2 * MIB))
    name = f"slice:{body.id}:5:9"
    with store.hold([name, name, "data:", "slice:x"]):
        body.release()
        found = store.find(name)
        assert found == (body, 5, 9)
        assert body.read(5, 4) == bytes(4)
    assert store.find(name) is None
    assert is_empty(store)
