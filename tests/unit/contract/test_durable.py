"""The one writer: its order, its faults, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from pathlib import Path

import pytest

from contract import disk, durable, faults
from contract.durable import DamagedFileError, NewFile, Operation
from contract.errors import StorageFull

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def nothing_armed():
    yield
    faults.arm("")


def pair(folder: Path) -> list[NewFile]:
    return [
        NewFile(path=folder / "a", buffers=[b"header", memoryview(DATA), b""]),
        NewFile(path=folder / "b", buffers=[b"x"]),
    ]


def test_files_hold_what_was_given_and_their_digests_say_so(tmp_path):
    first, second = durable.write_files(pair(tmp_path))
    assert (tmp_path / "a").read_bytes() == b"header" + DATA
    assert first.digest == hashlib.sha256(b"header" + DATA).hexdigest()
    assert (first.num_bytes, second.num_bytes) == (6 + len(DATA), 1)


def test_large_and_many_small_pieces_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_BATCH_BYTES", 100)
    pieces = [bytes([n % 256]) * (n % 7) for n in range(2000)] + [DATA]
    durable.write_files([NewFile(path=tmp_path / "a", buffers=pieces)])
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)


def test_a_write_that_took_only_a_part_is_continued(tmp_path, monkeypatch):
    real = os.writev
    monkeypatch.setattr(
        durable.os, "writev", lambda descriptor, batch: real(descriptor, [batch[0][:7]])
    )
    durable.write_file(tmp_path / "a", DATA)
    assert (tmp_path / "a").read_bytes() == DATA


def test_bytes_are_on_the_disk_before_a_name_and_a_name_before_the_return(tmp_path):
    done: list[Operation] = []
    with durable.watched(done.append):
        durable.write_files(pair(tmp_path / "new"))
    new = tmp_path / "new"
    kinds = [(operation.kind, operation.path) for operation in done]
    kinds = kinds[kinds.index(("make_directory", new)) :]
    assert kinds[1] == ("sync_directory", tmp_path)
    assert kinds[-3:] == [
        ("rename", new / ".a.tmp"),
        ("rename", new / ".b.tmp"),
        ("sync_directory", new),
    ]
    for name in (".a.tmp", ".b.tmp"):  # the two are written side by side
        mine = [kind for kind, path in kinds[2:-3] if path == new / name]
        assert mine == ["create", "write", "sync"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("point", ["create", "write", "sync", "rename", "sync_directory"])
@pytest.mark.parametrize("visit", [1, 2])
def test_whatever_fails_nothing_is_left_and_nothing_is_done_twice(tmp_path, point, visit, code):
    durable.make_directory(tmp_path)
    faults.arm(f"file.{point}={'eio' if code == errno.EIO else 'enospc'}@{visit}")
    done: list[Operation] = []
    with durable.watched(done.append), pytest.raises((OSError, StorageFull)) as caught:
        durable.write_files(pair(tmp_path / "new"))
    assert isinstance(caught.value, StorageFull) is (code == errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []
    synced = [operation.path for operation in done if operation.kind == "sync"]
    assert len(synced) == len(set(synced))
    faults.arm("")
    assert len(durable.write_files(pair(tmp_path / "new"))) == 2


def test_a_full_disk_says_what_was_needed_and_what_is_free(tmp_path):
    faults.arm("file.write=enospc@1")
    with pytest.raises(StorageFull) as caught:
        durable.write_file(tmp_path / "a", DATA)
    assert caught.value.needed_bytes == len(DATA)
    assert caught.value.free_bytes is not None
    assert str(tmp_path) in str(caught.value)


def test_an_exhausted_memory_leaves_nothing_either(tmp_path):
    faults.arm("file.sync=oom@1")
    with pytest.raises(MemoryError):
        durable.write_file(tmp_path / "a", DATA)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_does_not_hide_why_it_should_be(tmp_path):
    faults.arm("file.sync=eio@1,file.remove=enospc@1")
    with pytest.raises(OSError, match="Input/output"):
        durable.write_file(tmp_path / "a", DATA)


def test_a_directory_that_went_with_the_last_file_of_another_is_made_again(tmp_path):
    folder = tmp_path / "new"

    def sweep(operation: Operation) -> None:
        if operation == Operation(kind="sync_directory", path=tmp_path) and folder.is_dir():
            durable.remove_empty(folder)
            folder_went.append(True)

    folder_went: list[bool] = []
    with durable.watched(lambda operation: None if folder_went else sweep(operation)):
        durable.write_file(folder / "a", DATA)
    assert folder_went
    assert (folder / "a").read_bytes() == DATA


def test_a_directory_of_a_process_that_died_before_its_flush_is_flushed(tmp_path):
    (tmp_path / "made" / "deep").mkdir(parents=True)
    done: list[Operation] = []
    with durable.watched(done.append):
        durable.write_file(tmp_path / "made" / "deep" / "a", DATA)
        num_first = len(done)
        durable.write_file(tmp_path / "made" / "deep" / "b", DATA)
    synced = [operation.path for operation in done if operation.kind == "sync_directory"]
    assert {tmp_path, tmp_path / "made"} <= set(synced)
    again = [operation.path for operation in done[num_first:]]
    assert again.count(tmp_path) == 0  # once per process


def test_a_copy_is_equal_or_not_there(tmp_path):
    source = durable.write_file(tmp_path / "a", DATA)
    copied = durable.copy_file(source, tmp_path / "to" / "b")
    assert (copied.digest, copied.num_bytes) == (source.digest, source.num_bytes)
    assert Path(copied.path).read_bytes() == DATA
    with pytest.raises(DamagedFileError):
        durable.copy_file(dataclasses.replace(source, digest="0" * 64), tmp_path / "other" / "b")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["nothing", "folder"])
def test_a_source_that_is_no_file_is_damaged_and_a_target_that_cannot_be_made_is_not(
    tmp_path, kind
):
    source = durable.write_file(tmp_path / "a", DATA)
    with pytest.MonkeyPatch.context() as patched:
        refused = FileNotFoundError(errno.ENOENT, "No such file or directory")
        patched.setattr(durable, "_create", _raising(refused))
        with pytest.raises(FileNotFoundError):
            durable.copy_file(source, tmp_path / "to" / "b")
    (tmp_path / "a").unlink()
    if kind == "folder":
        (tmp_path / "a").mkdir()
    with pytest.raises(DamagedFileError, match="cannot be read"):
        durable.copy_file(source, tmp_path / "to" / "b")
    assert not (tmp_path / "to").exists()


def _raising(error: Exception):
    def fail(*_words, **_named):
        raise error

    return fail


def test_a_folder_in_a_folder_that_is_not_ours_is_an_error_unless_it_is_there(
    tmp_path, monkeypatch
):
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(os, "access", lambda *_words: False)
    assert durable.make_directory(tmp_path / "there") == []
    monkeypatch.setattr(Path, "mkdir", _raising(PermissionError(errno.EACCES, "Not yours")))
    with pytest.raises(PermissionError):
        durable.make_directory(tmp_path / "new")


def test_removing_twice_is_removing(tmp_path):
    durable.write_file(tmp_path / "a", DATA)
    assert durable.remove(tmp_path / "a")
    assert not durable.remove(tmp_path / "a")


def test_work_that_would_cross_the_line_is_refused_before_it_begins(tmp_path):
    free = disk.free_bytes(tmp_path / "not" / "there")
    disk.require_space(tmp_path, num_bytes=1000, min_free_bytes=0)
    with pytest.raises(StorageFull) as caught:
        disk.require_space(tmp_path, num_bytes=1000, min_free_bytes=free)
    assert caught.value.needed_bytes == 1000 + free
