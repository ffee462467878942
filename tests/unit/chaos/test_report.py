"""The report of bars: what was skipped is said, and does not count as passed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.chaos import report
from tests.chaos.checker import Verdict
from tests.chaos.render import page_of
from tests.chaos.report import Report, line_of
from tests.chaos.suite import run_tests

BAR = ModuleType("bar")
BAR.ID, BAR.TITLE = "R1", "all is well"  # pyright: ignore[reportAttributeAccessIssue]
PASSED = Verdict(figures={"kills": 3})
PART = Verdict(figures={"kills": 3}, skipped=["the fourth: no knife"])
NOTHING = Verdict(skipped=["all of it: no knife"])


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "_revision", lambda: "0123456789ab")
    return tmp_path / "report.json"


@pytest.mark.parametrize(("verdict", "has_passed"), [(PASSED, True), (PART, False)])
def test_a_bar_that_skipped_a_part_is_run_again(
    kept: Path, verdict: Verdict, has_passed: bool
) -> None:
    Report.open(kept, tier="full").add(BAR, verdict, seed=1, seconds=2.0)
    assert Report.open(kept, tier="full").has_passed("R1") is has_passed


@pytest.mark.parametrize(("verdict", "outcome"), [(PART, "passed"), (NOTHING, "skipped")])
def test_what_was_skipped_stands_in_the_line_and_on_the_page(
    kept: Path, verdict: Verdict, outcome: str
) -> None:
    opened = Report.open(kept, tier="full")
    entry = opened.add(BAR, verdict, seed=1, seconds=2.0)
    (reason,) = verdict.skipped
    head, said = line_of(entry).splitlines()
    assert f"R1 {outcome} in 2.0 s" in head
    assert said == f"    skipped: {reason}"
    content = {"tier": "full", "machine": "m", "python": "3", "bars": opened.entries}
    page = page_of(content, "report.json")
    assert f"- **skipped**: {reason}" in page
    assert f"{int(outcome == 'passed')} of 1 bars passed" in page


def test_tests_are_run_and_counted(tmp_path: Path) -> None:
    module = tmp_path / "test_all_sorts.py"
    module.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip(reason='too far')\n"
        "def test_far(): pass\n"
    )
    verdict, passed = run_tests(str(module), f"--rootdir={tmp_path}")
    assert verdict.figures == {"passed": 1, "failed": 1, "skipped": 1}
    assert passed == {"test_good": 1}
    assert len(verdict.violations) == 1
    assert verdict.skipped[0].endswith("too far")
