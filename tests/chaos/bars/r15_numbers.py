"""R15: numbers that are not finite are refused on the way in, and change nothing on the way out."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import structlog

from contract import faults
from server.config import DATABASE_FILE
from tests.chaos import worker_faults
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import (
    Player,
    are_equal,
    copied_database,
    damage,
    final_states,
    query,
    serving,
)
from tests.chaos.service import Service

ID = "R15"
TITLE = "a number that is not finite never reaches the weights or a caller"

NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
POINTS = {"train.loss": ("groups", "tensors"), "train.gradient": ("tensors",)}
"""Where a number is spoiled, and what the event has to name: a loss belongs to its group, and makes
the gradient of every tensor no number."""

TARGET = {"mode": "sft", "request": query(), "target": {"answer": "two"}}
WRONG = "a number"
BODIES: dict[str, dict[str, Any]] = {
    "lr": {"groups": [TARGET], "lr": WRONG},
    "reward": {
        "groups": [
            {
                "mode": "rl",
                "request": query(),
                "rollouts": [{"skill": "query", "answer_tokens": [1], "output": {"answer": "a"}}],
                "rewards": [WRONG],
            }
        ]
    },
    "coordinate": {
        "groups": [
            {
                "mode": "sft",
                "request": {"skill": "point", "object": "car"},
                "target": {"points": [{"x": WRONG, "y": 0.5}]},
            }
        ]
    },
    "side": {
        "groups": [
            {
                "mode": "sft",
                "request": {"skill": "detect", "object": "car"},
                "target": {"boxes": [{"x_min": 0.1, "y_min": 0.2, "x_max": WRONG, "y_max": 0.5}]},
            }
        ]
    },
    "logprob": {
        "groups": [
            {
                "mode": "rl",
                "request": query(),
                "rollouts": [
                    {
                        "skill": "query",
                        "answer_tokens": [1],
                        "output": {"answer": "a"},
                        "logprobs": {"answer": [WRONG]},
                    }
                ],
                "rewards": [1.0],
            }
        ]
    },
    "option": {"groups": [TARGET], "options": {"beta": WRONG}},
}


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="r15-") as name:
        asyncio.run(_refused(Path(name) / "in", verdict))
        expected = asyncio.run(_trained(Path(name) / "plain", "", verdict))
        for point in POINTS:
            place = Path(name) / point
            states = asyncio.run(_trained(place, f"{point}=nan@2", verdict))
            verdict.demand(
                are_equal(states, expected), f"{point}: weights or optimizer were changed"
            )
    for point in POINTS:
        history = worker_faults.play(bench, verdict, f"{point}=nan@2", met=_num_not_finite)
        skipped = [c.result for c in history.of("train_step") if not c.result["applied"]]
        told = [(answer["step"], answer["skip_reason"]) for answer in skipped]
        verdict.demand(told == [(2, "non_finite")], f"{point}: the SDK was told {told}")
    return verdict


def _num_not_finite(service: Service) -> float:
    """Over all finetunes."""
    return sum(
        float(line.split()[-1])
        for line in service.metrics_text().splitlines()
        if line.startswith("moontune_steps_not_finite_total{")
    )


async def _refused(data_dir: Path, verdict: Verdict) -> None:
    copied_database(data_dir)
    async with serving(data_dir) as http:
        player = Player(http=http, relief=_no_relief)
        finetune = await player.create("numbers")
        num_refused = 0
        for name, body in BODIES.items():
            for number in NUMBERS:
                text = json.dumps({"finetune_id": finetune, **body})
                answer = await http.post(
                    "/v1/tuning/train_step",
                    content=text.replace(json.dumps(WRONG), number),
                    headers={"content-type": "application/json"},
                )
                num_refused += answer.status_code == 422
                verdict.demand(answer.status_code == 422, f"{name} {number}: {answer.status_code}")
        with closing(sqlite3.connect(data_dir / DATABASE_FILE)) as database:
            (num_begun,) = database.execute("SELECT count(*) FROM train_requests").fetchone()
        verdict.demand(num_begun == 0, f"{num_begun} refused steps were begun")
        verdict.demand(await player.train(finetune, "one") == 1, "a refused step counted")
    verdict.figures["refused"] = num_refused


async def _trained(data_dir: Path, spec: str, verdict: Verdict) -> list[dict[str, Any]]:
    """Three steps, of which a fault may spoil the second; then the states at the end.

    The undisturbed run has two: the spoiled one changes nothing.
    """
    copied_database(data_dir)
    faults.arm(spec)
    try:
        async with serving(data_dir) as http:
            player = Player(http=http, relief=_no_relief)
            finetune = await player.create("numbers")
            with structlog.testing.capture_logs() as logs:
                await player.train(finetune, "one")
                if spec:
                    await player.train(finetune, "spoiled")
                await player.train(finetune, "three")
            metrics = (await http.get("/metrics")).text
    finally:
        faults.arm("")
    if spec:
        spoiled = player.told.steps[finetune][2]
        verdict.demand(spoiled["applied"] is False, f"{spec}: it was applied")
        verdict.demand(spoiled.get("skip_reason") == "non_finite", f"{spec}: {spoiled}")
        verdict.demand("NaN" not in json.dumps(player.told.steps), f"{spec}: NaN in an answer")
        events = [line for line in logs if line["event"] == "step_not_finite"]
        wanted = POINTS[spec.partition("=")[0]]
        named = [what for what in wanted if events and events[0][what]]
        verdict.demand(len(named) == len(wanted), f"{spec}: the event names {named}, not {wanted}")
        series = f'moontune_steps_not_finite_total{{finetune_id="{finetune}"}} 1.0'
        verdict.demand(series in metrics, f"{spec}: not counted")
        verdict.figures["spoiled"] = verdict.figures.get("spoiled", 0) + 1
    verdict.violations += damage(data_dir, player.told)
    return final_states(data_dir)


async def _no_relief(answer: httpx.Response) -> None:
    raise AssertionError(answer.text)
