"""A part of the tests, run as a process and counted; for bars that the tests themselves show."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from server.children import CODE_ROOT
from tests.chaos.bench import Verdict

_RESULT = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED) \S*::(test_\w+)", re.MULTILINE)
_SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] ([^:\s]+)\S*: (.*)$", re.MULTILINE)
_MAX_SHOWN = 2000


def run_tests(*words: str) -> tuple[Verdict, Counter[str]]:
    """Run pytest with these words; return what passed and what did not, and how often each passed.

    A test that was skipped is named with its reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *words],
        cwd=CODE_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    results = _RESULT.findall(done.stdout)
    skipped = _SKIPPED.findall(done.stdout)
    passed = Counter(name for outcome, name in results if outcome == "PASSED")
    verdict = Verdict(
        figures={
            "passed": passed.total(),
            "failed": sum(outcome in ("FAILED", "ERROR") for outcome, _ in results),
            "skipped": sum(int(number) for number, _, _ in skipped),
        },
        skipped=[f"{number} in {path}: {reason}" for number, path, reason in skipped],
    )
    verdict.demand(done.returncode == 0, (done.stdout + done.stderr)[-_MAX_SHOWN:])
    verdict.demand(passed.total() > 0, "nothing was run")
    return verdict, passed
