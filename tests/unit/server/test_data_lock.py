"""Who owns a data directory: names, copies, moves, and what others can see of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.data_lock import DataDirectoryError, is_served, lock_data_directory

HOLD = (
    "import sys; from pathlib import Path; from server.data_lock import lock_data_directory\n"
    "with lock_data_directory(Path(sys.argv[1])):\n"
    "    print('mine', flush=True); sys.stdin.read()"
)


@contextmanager
def held_elsewhere(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process owns the directory; it is killed in the end."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(data_dir)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        yield holder
        holder.kill()


def test_the_holder_is_named_by_its_own_process(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with (
        held_elsewhere(data_dir) as holder,
        pytest.raises(DataDirectoryError, match=rf"process {holder.pid} on .*, started 20"),
        lock_data_directory(data_dir),
    ):
        pass


def test_a_killed_holder_leaves_nothing_to_unlock(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as holder:
        assert is_served(tmp_path)
        holder.kill()
        holder.wait()
        assert not is_served(tmp_path)
        with lock_data_directory(tmp_path):
            pass


def test_the_name_of_one_that_ended_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as holder:
        facts = json.loads((tmp_path / "lock").read_text())
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        (tmp_path / "lock").write_text(json.dumps({**facts, "pid": ended.pid}))
        with (
            pytest.raises(DataDirectoryError, match="just starting"),
            lock_data_directory(tmp_path),
        ):
            pass
        assert holder.poll() is None


def test_a_copy_is_refused_while_its_original_is_served(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    with held_elsewhere(original) as holder:
        shutil.copytree(original, copy)
        with (
            pytest.raises(DataDirectoryError, match=rf"a copy of .*original.* {holder.pid}"),
            lock_data_directory(copy),
        ):
            pass
    with lock_data_directory(copy):  # the original is served no more
        assert json.loads((copy / "lock").read_text())["directory"] == str(copy)
    with held_elsewhere(original), lock_data_directory(copy):  # and now it is nobody's copy
        pass


def test_a_moved_directory_is_nobodys_copy(tmp_path: Path) -> None:
    with lock_data_directory(tmp_path / "before"):
        pass
    (tmp_path / "before").rename(tmp_path / "after")
    with held_elsewhere(tmp_path / "before"), lock_data_directory(tmp_path / "after"):
        pass


def test_a_lock_file_of_an_older_release_or_of_nobody_is_accepted(tmp_path: Path) -> None:
    for text in ('{"pid": 1, "host": "x", "started_at": "y"}', "garbage", "[]"):
        (tmp_path / "lock").write_text(text)
        with lock_data_directory(tmp_path):
            pass


def test_a_new_directory_is_for_its_owner_only(tmp_path: Path) -> None:
    with lock_data_directory(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data" / "lock").stat().st_mode & 0o777 == 0o600
