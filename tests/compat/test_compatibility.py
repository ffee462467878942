"""Every row of docs/compatibility.md, tried; and that no public method is without a row."""

from __future__ import annotations

import inspect
from collections import Counter

import moondream as md
import pytest
from moondream.cloud_vl import CloudVL
from moondream.finetune import Finetune
from moondream.photon_client import PhotonClient

from tests.compat.all_cases import CASES
from tests.compat.case import Case
from tests.compat.outcome import WHY_NOT, Runner
from tests.compat.page import PAGE, rows_of
from tests.live import ROOT

IN_ORDER = sorted(CASES, key=lambda case: case.is_long)


@pytest.mark.e2e
@pytest.mark.timeout(1800)  # the whole of a long row; CI as a whole has less
@pytest.mark.xdist_group("compat")
@pytest.mark.parametrize("case", IN_ORDER, ids=lambda case: case.name)
def test_row(case: Case, runner: Runner) -> None:
    if case.needs is not None and (reason := WHY_NOT[case.needs]()):
        pytest.skip(reason)
    runner.run(case)


def test_the_page_has_these_rows_and_outcomes() -> None:
    wanted = [(case.client.value, case.call, case.outcome) for case in CASES]
    assert rows_of((ROOT / PAGE).read_text()) == wanted, "run `make compat`"


def test_names_are_unique() -> None:
    counts = Counter(case.name for case in CASES)
    assert counts.most_common(1)[0][1] == 1


LOCAL = {"self", "kwargs"}
"""What is no parameter of a call over HTTP."""


def public_names() -> set[str]:
    """Functions of the module, and methods of its clients by class."""
    names = {name for name in md.__all__ if callable(getattr(md, name))}
    for owner in (Finetune, CloudVL, PhotonClient):
        names |= {f"{owner.__name__}.{name}" for name in dir(owner) if not name.startswith("_")}
    return names


def test_every_public_method_of_the_sdk_has_a_row() -> None:
    covered = {name for case in CASES for name in case.covers}
    assert covered == public_names()


def test_every_parameter_of_the_sdk_is_shown_by_a_row() -> None:
    calls = {"ft": md.ft, "vl": md.vl}
    for owner in (Finetune, CloudVL):
        members = vars(owner).items()
        calls |= {f"{owner.__name__}.{name}": m for name, m in members if not name.startswith("_")}
    for name, call in calls.items():
        rows = [case for case in CASES if name in case.covers]
        for parameter in set(inspect.signature(call).parameters) - LOCAL:
            assert any(case.mentions(parameter) for case in rows), f"{name} without {parameter}"
