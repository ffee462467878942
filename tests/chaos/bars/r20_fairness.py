"""R20: one account queues 200 calls, another's single calls hardly notice.

Likewise with two finetunes of one account, which cost no more at once than one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any

import moondream.finetune as sdk

from server.config import ServerConfig
from server.db import migrate
from server.db.connection import Database
from server.domain.caller import Limits, Scope
from server.services.keys import create_key
from tests.chaos.bench import Bench, Verdict
from tests.chaos.flood import LOWEST_PRIORITY, Outcome, call
from tests.chaos.service import Service
from tests.chaos.watching import quantile

ID = "R20"
TITLE = "200 queued calls of one account or finetune, and the single calls of another"
IS_ALONE = True

NUM_QUEUED = 200
MAX_RATIO = 3.0
MAX_INTERLEAVING = 1.1
PATH = "/v1/tuning/rollouts"


@dataclass(frozen=True, kw_only=True)
class _User:
    """Whose calls they are: a finetune, and a key of its account."""

    finetune_id: str
    key: str


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    num_singles = bench.count(commit=10, full=60)
    with bench.service("r20", options={"max_engine_calls": 4}) as service:
        keys = _keys_of_two_accounts(service)
        service.start()
        quiet, stranger = (
            _User(
                finetune_id=sdk.ft(key, name=name, rank=8, endpoint=service.tuning).finetune_id,
                key=key,
            )
            for name, key in zip(("quiet", "stranger"), keys, strict=True)
        )
        sibling = replace(
            quiet,
            finetune_id=sdk.ft(
                quiet.key, name="sibling", rank=8, endpoint=service.tuning
            ).finetune_id,
        )
        _singles(service.port, quiet, 3)  # warm
        solo = _singles(service.port, quiet, num_singles)
        beside: dict[str, list[Outcome]] = {}
        others: list[Outcome] = []
        for name, busy in (("account", stranger), ("finetune", sibling)):
            with _queue_of(service.port, busy) as queued:
                beside[name] = _singles(service.port, quiet, num_singles)
            others += queued
        in_turn = _seconds(service.port, [sibling], num_singles) + _seconds(
            service.port, [quiet], num_singles
        )
        interleaved = _seconds(service.port, [sibling, quiet], num_singles)
    singles = [outcome for outcomes in beside.values() for outcome in outcomes]
    statuses = {outcome.status for outcome in [*solo, *singles, *others]}
    verdict.demand(statuses <= {200, 503}, f"statuses {sorted(statuses)}")
    verdict.demand(all(o.status == 200 for o in singles), "a single call was refused")
    solo_p95 = quantile([outcome.seconds for outcome in solo], 0.95)
    for name, outcomes in beside.items():
        p95 = quantile([outcome.seconds for outcome in outcomes], 0.95)
        verdict.figures[f"beside_another_{name}_p95_ms"] = 1000 * p95
        verdict.demand(
            p95 <= MAX_RATIO * solo_p95 or not bench.is_full,
            f"p95 {1000 * p95:.0f} ms beside the queue of another {name},"
            f" {1000 * solo_p95:.0f} ms alone",
        )
    if bench.is_full:
        verdict.demand(
            interleaved <= MAX_INTERLEAVING * in_turn,
            f"{interleaved:.2f} s interleaved, {in_turn:.2f} s in turn",
        )
    verdict.figures |= {
        "singles": num_singles,
        "queued_calls_ended": len(others),
        "solo_p95_ms": 1000 * solo_p95,
        "in_turn_s": in_turn,
        "interleaved_s": interleaved,
    }
    return verdict


def _keys_of_two_accounts(service: Service) -> list[str]:
    """Made before the service starts, as `moontune keys create` makes them."""
    migrate.upgrade(ServerConfig(data_dir=service.data_dir))
    database = Database(service.database_url)
    try:
        return [
            database.write_blocking(
                create_key, account_id=account, name="k", scope=Scope.FULL, limits=Limits()
            ).key
            for account in ("one", "two")
        ]
    finally:
        database.close()


def _body(finetune_id: str, number: int) -> list[bytes]:
    request = {
        "skill": "query",
        "question": f"{number}?",
        "settings": {"max_tokens": 8, "temperature": 1.0},
    }
    body = {"finetune_id": finetune_id, "num_rollouts": 1, "request": request}
    return [json.dumps(body).encode()]


async def _one(port: int, user: _User, number: int) -> Outcome:
    return await call(port, PATH, _body(user.finetune_id, number), key=user.key)


async def _one_by_one(port: int, user: _User, count: int) -> list[Outcome]:
    return [await _one(port, user, number) for number in range(count)]


def _singles(port: int, user: _User, count: int) -> list[Outcome]:
    return asyncio.run(_one_by_one(port, user, count))


def _seconds(port: int, users: list[_User], count: int) -> float:
    async def work() -> None:
        await asyncio.gather(*(_one_by_one(port, user, count) for user in users))

    started = time.monotonic()
    asyncio.run(work())
    return time.monotonic() - started


@contextmanager
def _queue_of(port: int, user: _User) -> Iterator[list[Outcome]]:
    """Keep so many calls waiting for the length of a block; every one that ends is replaced.

    They come from a process of their own, of low priority: what is measured beside them is the
    service, not how this interpreter is shared.
    """
    outcomes: list[Outcome] = []
    context = get_context("spawn")
    is_over, is_full, told = context.Event(), context.Event(), context.SimpleQueue()
    crowd = context.Process(target=_crowd, args=(port, user, is_over, is_full, told))
    crowd.start()
    assert is_full.wait(60.0), "the crowd did not come"
    try:
        yield outcomes
    finally:
        is_over.set()
        outcomes += told.get()
        crowd.join()


def _crowd(port: int, user: _User, is_over: Event, is_full: Event, told: Any) -> None:
    outcomes: list[Outcome] = []

    async def work(number: int) -> None:
        while not is_over.is_set():
            outcomes.append(await _one(port, user, number))
            is_full.set()

    async def work_all() -> None:
        await asyncio.gather(*(work(number) for number in range(NUM_QUEUED)))

    os.nice(LOWEST_PRIORITY)
    asyncio.run(work_all())
    told.put(outcomes)
