"""R14: data of every released schema goes on, whatever happens during its upgrade.

The fixtures and what is asked of them stand in tests/migrations; here they are run and counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from server.children import CODE_ROOT
from tests.chaos.bench import Bench, Verdict

ID = "R14"
TITLE = "data of every released schema is upgraded"
_RESULT = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED) \S*::(test_\w+)", re.MULTILINE)
_MAX_SHOWN = 2000


def run(bench: Bench) -> Verdict:
    if not bench.is_full:
        return Verdict(figures={"skipped": "`make test` has just run tests/migrations"})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "tests/migrations"],
        cwd=CODE_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    results = Counter(outcome for outcome, _ in _RESULT.findall(done.stdout))
    tests = Counter(name for outcome, name in _RESULT.findall(done.stdout) if outcome == "PASSED")
    verdict = Verdict(
        figures={
            "passed": results["PASSED"],
            "skipped": results["SKIPPED"],
            "runs_by_test": {name.removeprefix("test_"): number for name, number in tests.items()},
        }
    )
    if done.returncode != 0:
        verdict.violations.append(done.stdout[-_MAX_SHOWN:])
    if not results["PASSED"]:
        verdict.violations.append("nothing was run")
    return verdict
