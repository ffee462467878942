"""The model of a power cut: it forgets what was not flushed, and finds a writer that forgets to."""

from __future__ import annotations

import random
from pathlib import Path

from contract.durable import Operation
from tests.chaos.power_cut import PAGE_BYTES, Disk

FOLDER = Path("/data")
PART, FILE = FOLDER / ".a.tmp", FOLDER / "a"
DATA = bytes(3 * PAGE_BYTES)

CREATE = Operation(kind="create", path=PART)
WRITE = Operation(kind="write", path=PART, data=DATA)
SYNC = Operation(kind="sync", path=PART)
RENAME = Operation(kind="rename", path=PART, target=FILE)
SYNC_FOLDER = Operation(kind="sync_directory", path=FOLDER)


def left(*operations: Operation) -> list[dict[Path, bytes]]:
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return list(disk.survivors(random.Random(0)))


def test_in_the_right_order_the_file_is_there_whole_and_nothing_else():
    assert left(CREATE, WRITE, SYNC, RENAME, SYNC_FOLDER) == [{FILE: DATA}]


def test_without_a_flush_any_number_of_pages_may_be_left():
    sizes = {len(state[FILE]) for state in left(CREATE, WRITE, RENAME, SYNC_FOLDER)}
    assert sizes == {0, PAGE_BYTES, 2 * PAGE_BYTES, len(DATA)}


def test_without_a_flush_of_the_directory_the_name_may_be_gone():
    states = left(CREATE, WRITE, SYNC, RENAME)
    assert {} in states
    assert {FILE: DATA} in states


def test_a_removed_file_may_come_back_until_its_directory_is_flushed():
    whole = (CREATE, WRITE, SYNC, RENAME, SYNC_FOLDER)
    remove = Operation(kind="remove", path=FILE)
    assert {FILE: DATA} in left(*whole, remove)
    assert left(*whole, remove, SYNC_FOLDER) == [{}]
