"""R20: one finetune queues 200 calls, another's single calls hardly notice.

Both belong to one account; that turns go round over accounts before finetunes is held by
tests/unit/server/test_fair_order.py. Two finetunes at once cost no more than one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any

from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.flood import LOWEST_PRIORITY, Outcome, call
from tests.chaos.watching import quantile

ID = "R20"
TITLE = "200 queued calls of one finetune, and the single calls of another"
IS_ALONE = True

NUM_QUEUED = 200
MAX_RATIO = 3.0
MAX_INTERLEAVING = 1.1
PATH = "/v1/tuning/rollouts"


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    num_singles = bench.count(commit=10, full=60)
    with bench.service("r20", options={"max_engine_calls": 4}) as service:
        service.start()
        _, client = new_run(service)
        busy, quiet = client.create("busy").id, client.create("quiet").id
        _singles(service.port, quiet, 3)  # warm
        solo = _singles(service.port, quiet, num_singles)
        with _queue_of(service.port, busy) as others:
            beside = _singles(service.port, quiet, num_singles)
        in_turn = _seconds(service.port, [busy], num_singles) + _seconds(
            service.port, [quiet], num_singles
        )
        interleaved = _seconds(service.port, [busy, quiet], num_singles)
    statuses = {outcome.status for outcome in [*solo, *beside, *others]}
    verdict.demand(statuses <= {200, 503}, f"statuses {sorted(statuses)}")
    verdict.demand(all(o.status == 200 for o in beside), "a single call was refused")
    solo_p95 = quantile([outcome.seconds for outcome in solo], 0.95)
    beside_p95 = quantile([outcome.seconds for outcome in beside], 0.95)
    if bench.is_full:
        verdict.demand(
            beside_p95 <= MAX_RATIO * solo_p95,
            f"p95 {1000 * beside_p95:.0f} ms beside the queue, {1000 * solo_p95:.0f} ms alone",
        )
        verdict.demand(
            interleaved <= MAX_INTERLEAVING * in_turn,
            f"{interleaved:.2f} s interleaved, {in_turn:.2f} s in turn",
        )
    verdict.figures |= {
        "singles": num_singles,
        "queued_calls_ended": len(others),
        "solo_p95_ms": 1000 * solo_p95,
        "beside_p95_ms": 1000 * beside_p95,
        "in_turn_s": in_turn,
        "interleaved_s": interleaved,
    }
    return verdict


def _body(finetune_id: str, number: int) -> list[bytes]:
    request = {
        "skill": "query",
        "question": f"{number}?",
        "settings": {"max_tokens": 8, "temperature": 1.0},
    }
    body = {"finetune_id": finetune_id, "num_rollouts": 1, "request": request}
    return [json.dumps(body).encode()]


async def _one_by_one(port: int, finetune_id: str, count: int) -> list[Outcome]:
    return [await call(port, PATH, _body(finetune_id, number)) for number in range(count)]


def _singles(port: int, finetune_id: str, count: int) -> list[Outcome]:
    return asyncio.run(_one_by_one(port, finetune_id, count))


def _seconds(port: int, finetune_ids: list[str], count: int) -> float:
    async def work() -> None:
        await asyncio.gather(*(_one_by_one(port, each, count) for each in finetune_ids))

    started = time.monotonic()
    asyncio.run(work())
    return time.monotonic() - started


@contextmanager
def _queue_of(port: int, finetune_id: str) -> Iterator[list[Outcome]]:
    """Keep so many calls waiting for the length of a block; every one that ends is replaced.

    They come from a process of their own, of low priority: what is measured beside them is the
    service, not how this interpreter is shared.
    """
    outcomes: list[Outcome] = []
    context = get_context("spawn")
    is_over, is_full, told = context.Event(), context.Event(), context.SimpleQueue()
    crowd = context.Process(target=_crowd, args=(port, finetune_id, is_over, is_full, told))
    crowd.start()
    assert is_full.wait(60.0), "the crowd did not come"
    try:
        yield outcomes
    finally:
        is_over.set()
        outcomes += told.get()
        crowd.join()


def _crowd(port: int, finetune_id: str, is_over: Event, is_full: Event, told: Any) -> None:
    outcomes: list[Outcome] = []

    async def work(number: int) -> None:
        while not is_over.is_set():
            outcomes.append(await call(port, PATH, _body(finetune_id, number)))
            is_full.set()

    async def work_all() -> None:
        await asyncio.gather(*(work(number) for number in range(NUM_QUEUED)))

    os.nice(LOWEST_PRIORITY)
    asyncio.run(work_all())
    told.put(outcomes)
