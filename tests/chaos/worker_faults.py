"""Faults inside the production worker, as a user of the real SDK meets them.

Bars that fail one operation after the other do so within one process, hundreds of times; this plays
some of the same faults through both processes, the socket between them and the SDK.
"""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable
from contextlib import suppress

from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.sdk import Patience, patience, sft
from tests.chaos.service import Service
from tests.chaos.undisturbed import Run, newest_state

NUM_STEPS = 3
FILE_POINTS = ("file.create", "file.write", "file.sync", "file.rename", "file.sync_directory")
FILES_OF_A_STEP = 2

Met = Callable[[Service], float]
"""How often a service says that the fault happened."""


def file_faults(bench: Bench, action: str) -> list[str]:
    """A fault for each point and file of the first step; at commit for one of them."""
    specs = [
        f"{point}={action}@{visit}"
        for point in FILE_POINTS
        for visit in range(1, FILES_OF_A_STEP + 1)
    ]
    return specs if bench.is_full else [bench.random.choice(specs)]


def play(
    bench: Bench, verdict: Verdict, spec: str, *, met: Met, raises: int | None = None
) -> History:
    """Steps of one finetune, of which one meets the fault.

    Judged are ledger and files, and that weights and optimizer are those of the applied steps.

    Args:
        met: Has to be 1 at the end.
        raises: The status that the SDK raises at once; the script sends the step again then. None:
            no step raises anything.
    """
    with bench.service(f"fault-{spec.replace('=', '-')}") as service, patience(Patience()):
        service.start(fault=spec)
        history, client = new_run(service)
        tuned = client.create("faulty")
        for number in range(NUM_STEPS):
            try:
                tuned.train([sft(number)], may_fail=raises is not None)
            except urllib.error.HTTPError as error:
                verdict.demand(error.code == raises, f"{spec}: the SDK raises {error.code}")
                tuned.train([sft(number)])
        calls = history.of("train_step", tuned.id)
        num_raised = sum(not call.is_ok for call in calls)
        verdict.demand(num_raised == (raises is not None), f"{spec}: {num_raised} calls raised")
        verdict.demand(met(service) == 1, f"{spec}: the fault was met {met(service):g} times")
        lives = len(service.lives())
        verdict.demand(lives == 1, f"{spec}: {lives} workers, the first should live on")
        judged = check(service, history, None)
        verdict.violations += [f"{spec}: {found}" for found in judged.violations]
        applied = tuple(call.body for call in calls if call.is_ok and call.result["applied"])
        (wanted,) = bench.undisturbed.states([Run(ordinal=1, rank=8, bodies=applied)])
        verdict.demand(
            newest_state(service, tuned.id) == wanted,
            f"{spec}: weights or optimizer are not those of the {len(applied)} applied steps",
        )
    verdict.figures["through_the_sdk"] = verdict.figures.get("through_the_sdk", 0) + 1
    return history


def answered(status: int) -> Met:
    """How many train steps were answered with a status."""
    series = f'moontune_http_requests_total{{route="/v1/tuning/train_step",status="{status}"}}'
    return lambda service: service.metric(series)


def logged(event: str) -> Met:
    """How often the worker wrote an event."""

    def count(service: Service) -> int:
        events = []
        for line in (service.data_dir / "logs" / "worker.log").read_text().splitlines():
            with suppress(ValueError):
                events.append(json.loads(line)["event"])
        return events.count(event)

    return count
