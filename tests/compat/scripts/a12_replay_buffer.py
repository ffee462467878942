"""A12: a replay buffer: old groups with other crops, changed rewards and missing fields."""

from __future__ import annotations

import random
import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed

OPTIONAL = ("logprobs", "policy_step", "finish_reason", "skill", "has_answer_separator", "sizes")
LARGE_KL = 0.05
FEWEST, MOST = (8, 2), (32, 8)


def sample(finetune: Any, number: int, num_rollouts: int) -> dict[str, Any]:
    """A group as the buffer keeps it: what was asked, what came, and what it was worth."""
    image, boxes = boxed(number)
    answer = finetune.rollouts(
        "point",
        image=image,
        object="shape",
        num_rollouts=num_rollouts,
        settings={"temperature": 1.0, "max_tokens": 8},
        ground_truth={"boxes": boxes},
    )
    rewards = [2 * reward - 1 for reward in answer["rewards"]]
    return {"image": image, "rollouts": answer["rollouts"], "rewards": rewards}


def replay(kept: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The group again, rebuilt: another crop, fields left out, at times a rollout that is empty."""
    left, top = chance.randint(0, 8), chance.randint(0, 8)
    image = kept["image"].crop((left, top, 84 - left, 84 - top))
    rollouts = []
    for rollout in kept["rollouts"]:
        absent = set(chance.sample(OPTIONAL, 2))
        rollouts.append({name: value for name, value in rollout.items() if name not in absent})
    if chance.random() < 0.25:
        rollouts[0] = {"skill": "point", "output": {"points": []}, "answer_tokens": []}
    request = {"skill": "point", "object": "shape", "image": image}
    return {
        "mode": "rl",
        "request": request,
        "rollouts": rollouts,
        "rewards": kept["rewards"],
    }


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 60, widest: tuple[int, int] = MOST
) -> dict[str, Any]:
    """The last step has the groups and rollouts of `widest`; the others have 8 of 2."""
    chance = random.Random(12)
    finetune = md.ft(
        api_key, name=f"replay-{time.time_ns()}", rank=16, endpoint=f"{endpoint}/v1/tuning"
    )
    buffer = [sample(finetune, number, FEWEST[1]) for number in range(FEWEST[0])]
    wide = [sample(finetune, number, widest[1]) for number in range(widest[0])]
    lr, rates, results = 2e-3, [], []
    for step in range(steps):
        kept = wide if step == steps - 1 else buffer
        result = finetune.train_step([replay(group, chance) for group in kept], lr=lr)
        results.append(result)
        rates.append(lr)
        if result["kl"] > LARGE_KL:
            lr = max(lr / 2, 1e-5)
        buffer[step % len(buffer)]["rewards"] = [chance.uniform(-3, 0) for _ in range(FEWEST[1])]
    return {"results": results, "rates": rates}


if __name__ == "__main__":
    run(main)
