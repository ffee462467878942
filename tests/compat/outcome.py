"""Running rows: long ones beside the others, and what came of each."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.compat import node_calls
from tests.compat.bench import Bench
from tests.compat.case import Case

WHY_NOT = {"node": node_calls.why_not}
"""By the program that a row needs: why it cannot be run here, or None."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of a row; `outcome` is the expected one, or says how it failed."""

    case: Case
    observed: str
    outcome: str

    @property
    def is_expected(self) -> bool:
        return self.outcome == self.case.outcome


class Runner:
    """Runs rows on a bench; a context that waits for what it began."""

    def __init__(self, bench: Bench):
        self._bench = bench
        self._threads = ThreadPoolExecutor(thread_name_prefix="long-row")
        self._begun: dict[str, Future[str]] = {}

    def begin(self, cases: Sequence[Case]) -> None:
        """Begin the long ones of these rows."""
        long_ones = [case for case in cases if case.is_long]
        if long_ones:
            assert self._bench.forge  # made here, not by two threads at once
        for case in long_ones:
            self._begun[case.name] = self._threads.submit(case.run, self._bench)

    def run(self, case: Case) -> str:
        """Run a row, or wait for it; return what was observed.

        Raises:
            Exception: It is otherwise than the row says.
        """
        begun = self._begun.get(case.name)
        return case.run(self._bench) if begun is None else begun.result()

    def see(self, case: Case) -> Seen:
        """Run a row and say what came of it, whatever that is."""
        try:
            observed = self.run(case)
        except Exception as error:
            said = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
            return Seen(case=case, observed="", outcome=f"fails: {said:.120}")
        return Seen(case=case, observed=observed, outcome=case.outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True)
