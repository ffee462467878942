"""State files: whole and durable, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from contract import durable
from contract.errors import StateDamaged, StorageFull
from trainer.storage import read_tensors, write_all, write_tensors

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3)}


def failing_fsync(monkeypatch: pytest.MonkeyPatch, number: int, code: int = errno.ENOSPC) -> None:
    """Let the `number`-th fsync from now on fail, and those after it succeed."""
    monkeypatch.setattr(durable, "make_directory", lambda _directory: [])
    real, calls = os.fsync, iter(range(1, 1000))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(durable.os, "fsync", fsync)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path):
    file = write_tensors(tmp_path / "deep" / "er" / "w.safetensors", TENSORS, {"rank": "8"})
    data = Path(file.path).read_bytes()
    assert file.num_bytes == len(data)
    assert file.digest == hashlib.sha256(data).hexdigest()
    read = read_tensors(file)
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert read["a"].dtype == torch.int64
    assert b"rank" in data[:200]


def test_equal_tensors_give_equal_bytes(tmp_path: Path):
    facts = {"rank": "8", "finetune_id": "F" * 26, "more": "x"}
    digests = {write_tensors(tmp_path / str(number), TENSORS, facts).digest for number in range(20)}
    assert len(digests) == 1


def test_the_bytes_are_those_of_the_library(tmp_path: Path):
    tensors = {**TENSORS, "c": torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "é": torch.ones(1)}
    file = write_tensors(tmp_path / "w", tensors, {"rank": "8"})
    theirs = safetensors.torch.save(tensors, {"moontune": '{"rank": "8"}'})
    assert Path(file.path).read_bytes() == theirs


def test_views_and_gradients_are_written_as_plain_values(tmp_path: Path):
    turned = torch.arange(6.0).view(2, 3).requires_grad_().T
    file = write_tensors(tmp_path / "w", {"a": turned}, {})
    assert torch.equal(read_tensors(file)["a"], turned.detach())


def test_nothing_but_the_file_is_left(tmp_path: Path):
    write_tensors(tmp_path / "w", TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_name_is_never_reused(tmp_path: Path):
    first = write_tensors(tmp_path / "w", TENSORS, {})
    with pytest.raises(FileExistsError, match="once"):
        write_tensors(tmp_path / "w", {"a": torch.zeros(1)}, {})
    read_tensors(first)


# The first fsync is that of the file, the second that of its directory after the rename.
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_full_disk_leaves_nothing_behind_and_the_call_can_be_repeated(
    tmp_path, monkeypatch, number, code
):
    failing_fsync(monkeypatch, number, code)
    with pytest.raises(StorageFull, match="space"):
        write_tensors(tmp_path / "w", TENSORS, {})
    assert list(tmp_path.iterdir()) == []
    read_tensors(write_tensors(tmp_path / "w", TENSORS, {}))


@pytest.mark.parametrize("number", [1, 2])
def test_another_fault_of_the_disk_leaves_nothing_behind_either(tmp_path, monkeypatch, number):
    failing_fsync(monkeypatch, number, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        write_tensors(tmp_path / "w", TENSORS, {})
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_directory_is_a_full_disk(tmp_path, monkeypatch):
    def mkdir(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StorageFull):
        write_tensors(tmp_path / "new" / "w", TENSORS, {})


# Two files, then the directory that both lie in.
@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_files_that_belong_together_all_are_there_or_none(tmp_path, monkeypatch, number):
    failing_fsync(monkeypatch, number)
    files = {tmp_path / "w": TENSORS, tmp_path / "o": TENSORS}
    with pytest.raises(StorageFull):
        write_all(files, {})
    assert list(tmp_path.iterdir()) == []
    assert [Path(file.path).name for file in write_all(files, {})] == ["w", "o"]


@pytest.mark.parametrize("place", [0, 60, -1])
def test_a_damaged_file_is_refused(tmp_path, place):
    file = write_tensors(tmp_path / "w", TENSORS, {})
    data = bytearray(Path(file.path).read_bytes())
    data[place] ^= 1
    Path(file.path).write_bytes(data)
    with pytest.raises(StateDamaged, match="damaged"):
        read_tensors(file)


def test_a_truncated_or_missing_file_is_refused(tmp_path):
    file = write_tensors(tmp_path / "w", TENSORS, {})
    Path(file.path).write_bytes(Path(file.path).read_bytes()[:-1])
    with pytest.raises(StateDamaged, match="damaged"):
        read_tensors(file)
    for path in (tmp_path / "other", tmp_path, tmp_path / "w" / "below"):
        with pytest.raises(StateDamaged, match="cannot be read"):
            read_tensors(replace(file, path=str(path)))
