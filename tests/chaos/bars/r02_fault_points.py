"""R2: the worker or the API ends at every fault point of every operation, one after the other.

Which points an operation has is not guessed: one undisturbed call tells which it visits and how
often, in either process. Each visit is a case of its own: a fresh start with the fault armed, the
call, whoever died started again, and the call made again if its answer broke.

`save` is prepared by a step, so its cases run one after another on a finetune that goes on.
"""

from __future__ import annotations

import urllib.error
from collections import Counter
from dataclasses import dataclass
from typing import Any

from contract.faults import EXIT_STATUS, POINTS
from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.load import BROKEN
from tests.chaos.operations import OPERATIONS, Operation, World, refusal_of
from tests.chaos.operator import Operator
from tests.chaos.sdk import Patience, patience
from tests.chaos.waiting import until

ID = "R2"
TITLE = "a crash at every fault point of every operation"
ENDURING = Patience(base_delay=0.05, max_delay=2.0)
COMMIT_SHARE = 3
"""At commit every third case is run, another third each time."""
MAX_VISITS = {"commit": 6, "full": 24}
"""Of a point that an operation visits more often: the first, the last, some between."""
UNSTEADY = "rollouts.tick"
"""Visited once a token, and no two answers have the same length: its last visits may not come."""
MAX_CALLS = 5
MAX_TRIES = 3
"""Of a case: cleaning up goes on behind an answer, and may be over or not when the call ends."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One crash: the visit counts from the start of the process."""

    process: str
    point: str
    visit: int

    @property
    def spec(self) -> str:
        return f"{self.point}=exit@{self.visit}"


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    crashes, cases_run = Counter[str](), Counter[str]()
    points = set[str]()
    unmet: list[str] = []
    with bench.service("r02") as service, patience(ENDURING):
        service.start(counts_visits=True)
        history, client = new_run(service)
        world = World(service=service, history=history, client=client, tuned=client.create("swept"))
        world.train()
        offset = bench.random.randrange(COMMIT_SHARE)
        for operation in OPERATIONS:
            found = _cases(world, operation, max_visits=MAX_VISITS[bench.tier])
            points |= {case.point for case in found}
            chosen = found if bench.is_full else found[offset::COMMIT_SHARE]
            prepared = [operation.prepare(world) for _ in chosen] if _is_free(operation) else []
            for index, case in enumerate(chosen):
                died, num_tries = "nobody", 0
                while died == "nobody" and num_tries < MAX_TRIES:
                    if not service.is_running:
                        service.start()
                    is_first = bool(prepared) and not num_tries
                    wish = prepared[index] if is_first else operation.prepare(world)
                    died = _crash(world, operation, case, wish, verdict)
                    num_tries += 1
                cases_run[operation.name] += 1
                crashes[died] += 1
                is_owed = operation.is_steady and case.point != UNSTEADY
                if died == "nobody" and is_owed:
                    unmet.append(f"{operation.name}, {case.process} at {case.spec}")
            verdict.add(bench.check(service, history))
            service.start()
    verdict.figures |= {
        "cases": cases_run.total(),
        "cases_by_operation": dict(cases_run),
        "ended": dict(crashes),
        "points": f"{len(points)} of {len(POINTS)}",
    }
    max_unmet = 0 if bench.is_full else cases_run.total() // 10
    verdict.demand(len(unmet) <= max_unmet, f"faults that their call never met: {unmet}")
    missed = sorted(set(POINTS) - points)
    verdict.demand(not missed, f"no operation visits {', '.join(missed)}")
    for name in ("applied", "answered", "finetunes", "calls", "files_verified"):
        verdict.figures.pop(name, None)  # of several looks at one history
    return verdict


def _is_free(operation: Operation) -> bool:
    """Whether what a case needs can be made long before; a save saves what is newest."""
    return operation.name != "save"


def _cases(world: World, operation: Operation, *, max_visits: int) -> list[Case]:
    """Every visit to a fault point in one undisturbed call, or of very many visits some."""
    wish = operation.prepare(world)
    world.service.stop()
    world.service.forget_visits()
    world.service.start(counts_visits=True)
    before = Counter() if operation.is_cold else world.service.visits()
    operation.call(world, wish)
    world.service.stop()  # what is cleaned up behind an answer belongs to the operation
    after = world.service.visits()
    world.service.start()
    cases: list[Case] = []
    for (process, point), count in sorted(after.items()):
        visits = list(range(before[process, point] + 1, count + 1))
        if len(visits) > max_visits:
            step = -(-len(visits) // (max_visits - 1))
            visits = [*visits[:-1:step], visits[-1]]
        cases += [Case(process=process, point=point, visit=visit) for visit in visits]
    return cases


def _crash(world: World, operation: Operation, case: Case, wish: Any, verdict: Verdict) -> str:
    """One case; return which process ended: `api`, `worker` or `nobody`."""
    service = world.service
    what = f"{operation.name}, {case.process} at {case.spec}"
    service.stop()
    service.start(fault=case.spec, ready=False)
    num_lives = len(service.lives())
    with Operator(service) as operator:
        try:
            answer = _until_answered(world, operation, wish)
        except (urllib.error.URLError, AssertionError) as error:
            told = refusal_of(error) if isinstance(error, urllib.error.HTTPError) else str(error)
            verdict.violations.append(f"{what}: {told}")
            answer = None
        until(lambda: service.get("/readyz")[0] == 200, f"all is well again after {what}")
    odd = [status for status in operator.statuses if status != EXIT_STATUS]
    verdict.demand(not odd, f"{what}: the API ended with {odd}")
    if answer is not None:
        wrong = operation.judge(world, wish, answer)
        verdict.demand(wrong is None, f"{what}: {wrong}")
    if operator.statuses:
        return "api"
    if len(service.lives()) > num_lives + 1:
        return "worker"
    return "api" if service.stop() == EXIT_STATUS else "nobody"  # cleaning up behind the answer


def _until_answered(world: World, operation: Operation, wish: Any) -> Any:
    """Call, and call again when an answer broke: a script that is started again."""
    for _ in range(MAX_CALLS):
        try:
            return operation.call(world, wish)
        except BROKEN:
            continue
    raise AssertionError(f"its answer broke {MAX_CALLS} times")
