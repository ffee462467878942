"""S1, S2: time tells nothing of a key, nor of what belongs to another account.

In this process: the key ring is asked for keys that are wrong in their first and in their last
character, in turn, and the two kinds of times are compared by Welch's test; then another account's
finetune and one that never was are asked for in turn, through the whole application.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import string
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from server.domain.caller import Limits, Scope
from server.domain.errors import InvalidApiKeyError
from server.services.container import Services
from server.services.keys import create_key
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import copied_database, serving
from tests.chaos.silence import silence

ID = "S1"
TITLE = "time tells nothing of a key, nor of what another account has"
IS_ALONE = True

NUM_KEYS = 50
MAX_T = 4.5
NUM_ROUNDS = 5
MAX_APART_SECONDS = 0.002
KEPT = 0.9
"""The share of the shortest times; the longest tell of the machine alone."""


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="s1-") as name, silence():
        asyncio.run(_run(bench, Path(name) / "data", verdict))
    return verdict


async def _run(bench: Bench, data_dir: Path, verdict: Verdict) -> None:
    num_tries = bench.count(commit=4_000, full=20_000)
    num_calls = bench.count(commit=200, full=1_000)
    copied_database(data_dir)
    async with serving(data_dir) as http:
        services: Services = http._transport.app.state.services  # type: ignore[attr-defined]
        keys = [
            (
                await services.database.write(
                    create_key,
                    account_id=f"account-{number % 2}",
                    name=f"key {number}",
                    scope=Scope.FULL,
                    limits=Limits(),
                )
            ).key
            for number in range(NUM_KEYS)
        ]
        await services.keys.open()
        t = await _times_of_keys(services, keys, num_tries, bench.random)
        verdict.demand(abs(t) < MAX_T, f"first and last character wrong: t = {t:.2f}")
        apart = await _times_of_finetunes(http, keys[0], keys[1], num_calls, bench.random)
        verdict.demand(
            apart <= MAX_APART_SECONDS,
            f"another account's finetune and none: medians {1000 * apart:.2f} ms apart",
        )
    verdict.figures |= {"tries": num_tries, "welch_t": t, "medians_apart_ms": 1000 * apart}


async def _times_of_keys(
    services: Services, keys: list[str], num_tries: int, chance: random.Random
) -> float:
    """Welch's t of the two kinds of wrong keys, in the middle of some rounds.

    Many keys of each, since every digest has its own luck with the table that it is looked up in; a
    key that leaked would lean to the same side in each round, which noise does not.
    """

    async def ask(wrong: str) -> None:
        try:
            await services.keys.caller_of(wrong)
        except InvalidApiKeyError:
            return
        raise AssertionError("a wrong key was let in")

    def drawn(at: int) -> str:
        """A key with another character at this place; made anew, since memory tells times, too."""
        key = chance.choice(keys)
        letter = chance.choice([c for c in string.ascii_letters if c != key[at]])
        return "".join((key[:at], letter, key[at + 1 :]))

    last = len(keys[0]) - 1
    rounds = [
        _welch(*await _in_turn(ask, lambda: drawn(0), lambda: drawn(last), num, chance))
        for num in [num_tries // NUM_ROUNDS] * NUM_ROUNDS
    ]
    return statistics.median(rounds)


async def _times_of_finetunes(
    http: httpx.AsyncClient, own: str, foreign: str, num_calls: int, chance: random.Random
) -> float:
    """How far the medians of a foreign finetune and of none are apart, in seconds."""
    made = await http.post(
        "/v1/tuning/finetunes",
        json={"name": "theirs", "rank": 8},
        headers={"X-Moondream-Auth": foreign},
    )
    theirs = made.json()["finetune_id"]
    nobodys = theirs[:-1] + _other(theirs[-1])

    async def ask(finetune_id: str) -> None:
        path = f"/v1/tuning/finetunes/{finetune_id}"
        answer = await http.get(path, headers={"X-Moondream-Auth": own})
        assert answer.status_code == 404, answer.text

    times = await _in_turn(ask, lambda: theirs, lambda: nobodys, num_calls, chance)
    return abs(statistics.median(times[0]) - statistics.median(times[1]))


async def _in_turn(
    ask: Callable[[str], Awaitable[None]],
    one: Callable[[], str],
    other: Callable[[], str],
    num: int,
    chance: random.Random,
) -> tuple[list[float], list[float]]:
    """Seconds of each, in pairs of drawn order, so that what the machine does meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num):
        for which in chance.sample((0, 1), 2):
            # Both are made, in any order, or what was done before tells them apart.
            texts = {kind: (one, other)[kind]() for kind in chance.sample((0, 1), 2)}
            started = time.perf_counter()
            await ask(texts[which])
            times[which].append(time.perf_counter() - started)
    return times


def _welch(first: list[float], second: list[float]) -> float:
    """Welch's t, of the shortest times of each."""
    one, other = (sorted(times)[: round(KEPT * len(times))] for times in (first, second))
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.mean(one) - statistics.mean(other)) / math.sqrt(spread)


def _other(character: str) -> str:
    return "A" if character != "A" else "B"
