"""R15: numbers that are not finite are refused on the way in, and change nothing on the way out."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import structlog

from contract import faults
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

ID = "R15"
TITLE = "a number that is not finite never reaches the weights or a caller"

NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
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
}


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="r15-") as name:
        asyncio.run(_refused(Path(name) / "in", verdict))
        expected = asyncio.run(_trained(Path(name) / "plain", "", verdict))
        for point in ("train.loss", "train.gradient"):
            place = Path(name) / point
            states = asyncio.run(_trained(place, f"{point}=nan@2", verdict))
            verdict.demand(
                are_equal(states, expected), f"{point}: weights or optimizer were changed"
            )
    return verdict


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
        named = events and (events[0]["groups"] or events[0]["tensors"])
        verdict.demand(bool(named), f"{spec}: no event names a group or tensor")
        verdict.demand("moontune_steps_not_finite_total" in metrics, f"{spec}: not counted")
        verdict.figures["spoiled"] = verdict.figures.get("spoiled", 0) + 1
    verdict.violations += damage(data_dir, player.told)
    return final_states(data_dir)


async def _no_relief(answer: httpx.Response) -> None:
    raise AssertionError(answer.text)
