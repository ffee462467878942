"""R14: data of every released schema goes on, whatever happens during its upgrade.

The fixtures and what is asked of them stand in tests/migrations; here they are run and counted.
"""

from __future__ import annotations

from tests.chaos.bench import Bench, Verdict
from tests.chaos.suite import run_tests

ID = "R14"
TITLE = "data of every released schema is upgraded"


def run(bench: Bench) -> Verdict:
    if not bench.is_full:
        return Verdict(skipped=["all of it: `make test` has just run tests/migrations"])
    verdict, passed = run_tests("tests/migrations")
    runs = {name.removeprefix("test_"): number for name, number in passed.items()}
    verdict.figures["runs_by_test"] = runs
    return verdict
