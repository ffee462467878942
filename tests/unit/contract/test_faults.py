"""Fault points: all placed, off unless armed, and armed only with what can happen."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import faults

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.arm("")


def test_every_point_is_placed_in_the_product() -> None:
    text = "".join(
        path.read_text()
        for package in ("contract", "server", "trainer")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "faults.py"
    )
    assert [name for name in faults.POINTS if f'"{name}"' not in text] == []


def test_a_point_that_is_not_armed_does_nothing() -> None:
    faults.point("train.begin")
    assert not faults.spoiled("train.loss")


def test_a_fault_happens_at_its_visit_and_once() -> None:
    faults.arm("file.write=eio@2, file.sync=enospc")
    faults.point("file.write")
    with pytest.raises(OSError, match=r"file\.write") as raised:
        faults.point("file.write")
    assert raised.value.errno == errno.EIO
    faults.point("file.write")
    with pytest.raises(OSError, match=r"file\.sync") as raised:
        faults.point("file.sync")
    assert raised.value.errno == errno.ENOSPC


def test_memory_ends_and_numbers_spoil() -> None:
    faults.arm("train.loss=nan@2,train.update=oom")
    assert [faults.spoiled("train.loss") for _ in range(3)] == [False, True, False]
    with pytest.raises(MemoryError):
        faults.point("train.update")


@pytest.mark.parametrize(("action", "status"), [("exit", faults.EXIT_STATUS), ("segv", -11)])
def test_a_process_ends_where_it_is_told(action: str, status: int) -> None:
    script = f"from contract import faults; faults.arm('train.begin={action}');"
    script += "faults.point('train.begin'); print('still here')"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (status, "")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nonsense", "is no fault"),
        ("no.point=exit", "no fault point"),
        ("train.begin=explode", "is no fault; there are"),
        ("train.begin=nan", "no number is spoiled"),
        ("train.begin=exit,train.begin=hang@2", "a point twice"),
    ],
)
def test_what_cannot_happen_is_refused(spec: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        faults.arm(spec)


def test_later_lives_get_the_faults_of_every_life() -> None:
    assert faults.for_later_lives("a.b=exit@1,c.d=segv!, e.f=oom@2!") == "c.d=segv!,e.f=oom@2!"


def test_the_points_can_be_listed() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "contract.faults"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(faults.POINTS)
