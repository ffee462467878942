"""R16: out of memory at each point of a step: smaller parts, the same result, or an honest 413.

The faults are raised by the trainer itself; the real thing belongs to a GPU.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from pathlib import Path
from typing import Any

import httpx
import torch

from contract import faults
from tests.chaos import worker_faults
from tests.chaos.bench import Bench, Verdict
from tests.chaos.local import (
    Player,
    copied_database,
    damage,
    final_states,
    query,
    serving,
)
from tests.chaos.silence import silence

ID = "R16"
TITLE = "a step that meets the end of the memory gives the same result, or 413 and no harm"

POINTS = ("train.begin", "train.plan", "train.forward", "train.backward", "train.update")
TOLERANCE = 1e-5
MAX_GROWTH = 1.05
POSITIONS = 32
"""Hold all four answers in one pack, and half of it does not."""
ANSWERS = ("one", "two circles", "three red ones", "none")


@silence()
def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="r16-") as name:
        folder = Path(name)
        expected = asyncio.run(_trained(folder / "plain", "", verdict))
        largest = 0.0
        for point in POINTS:
            states = asyncio.run(_trained(folder / point, f"{point}=oom@1", verdict))
            largest = max(largest, _difference(states, expected))
        verdict.demand(largest <= TOLERANCE, f"split and unsplit differ by {largest}")
        verdict.figures |= {"points": len(POINTS), "largest_difference": largest}
        asyncio.run(_too_large(folder / "large", verdict))
    met = worker_faults.logged("train_step_out_of_memory")
    for point in POINTS if bench.is_full else [bench.random.choice(POINTS)]:
        worker_faults.play(bench, verdict, f"{point}=oom@2", met=met)
    return verdict


async def _trained(data_dir: Path, spec: str, verdict: Verdict) -> list[dict[str, Any]]:
    copied_database(data_dir)
    real, visits = faults.point, [0]

    def visit(name: str) -> None:
        visits[0] += name == "train.forward"
        real(name)

    async with serving(data_dir, micro_batch_tokens=POSITIONS) as http:
        player = Player(http=http, relief=_no_relief)
        finetune = await player.create("memory")
        faults.arm(spec)
        faults.point = visit
        try:
            await player.call("train_step", "POST", "train_step", _body(finetune))
        except AssertionError as error:
            verdict.violations.append(f"{spec}: {error}")
        finally:
            faults.point = real
            faults.arm("")
    wanted = visits[0] > 2 if spec else visits[0] == 1
    verdict.demand(wanted, f"{spec or 'undisturbed'}: {visits[0]} packs were begun")
    return final_states(data_dir)


async def _too_large(data_dir: Path, verdict: Verdict) -> None:
    """Nothing fits: 413, memory back, the other finetune as if nothing had been."""
    copied_database(data_dir)
    real = faults.point

    def visit(name: str) -> None:
        if name == "train.backward":
            raise MemoryError("no memory at all")
        real(name)

    async with serving(data_dir) as http:
        player = Player(http=http, relief=_no_relief)
        large, other = await player.create("large"), await player.create("other")
        await player.train(other, "one")
        before = _held_bytes()
        faults.point = visit
        try:
            answer = await http.post("/v1/tuning/train_step", json=_body(large))
        finally:
            faults.point = real
        body = answer.json()
        verdict.demand(answer.status_code == 413, f"wanted 413, got {answer.text}")
        verdict.demand(body["error"]["code"] == "batch_too_large", f"{body}")
        says = all(word in body["message"] for word in ("Group", "bytes more", "are free"))
        verdict.demand(says, f"413 does not say how much: {body['message']}")
        del answer
        growth = _held_bytes() / before
        verdict.demand(growth <= MAX_GROWTH, f"tensors held grew to {growth:.3f} of before")
        verdict.figures["held_after_413"] = round(growth, 4)
        verdict.demand(await player.train(other, "two") == 2, "the other finetune lost its step")
        fitting = await http.post("/v1/tuning/train_step", json=_body(large))
        verdict.demand(fitting.json().get("step") == 1, f"the next step: {fitting.text}")
    verdict.violations += damage(data_dir, player.told)


def _body(finetune: str) -> dict[str, Any]:
    groups = [{"mode": "sft", "request": query(), "target": {"answer": a}} for a in ANSWERS]
    return {"finetune_id": finetune, "groups": groups, "lr": 0.01}


def _difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    if len(ours) != len(theirs):
        return float("inf")
    return max(
        float((a[name].double() - b[name].double()).abs().max())
        for a, b in zip(ours, theirs, strict=True)
        for name in a
    )


def _held_bytes() -> int:
    gc.collect()
    return sum(t.nbytes for t in gc.get_objects() if issubclass(type(t), torch.Tensor))


async def _no_relief(answer: httpx.Response) -> None:
    raise AssertionError(answer.text)
