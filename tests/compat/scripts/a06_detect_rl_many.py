"""A6: detect by the server's rewards, many boxes; greedy rewards are logged as mean IoU."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed

GROUPS, ROLLOUTS = 16, 8
MANY = (3, 6)


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 50, num_evaluated: int = 20
) -> dict[str, Any]:
    finetune = md.ft(
        api_key, name=f"many-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )
    step, mious = 0, []
    while step < steps:
        requests = []
        for number in range(GROUPS * step, GROUPS * (step + 1)):
            image, boxes = boxed(number, MANY)
            request = {
                "skill": "detect",
                "image": image,
                "object": "shape",
                "num_rollouts": ROLLOUTS,
                "settings": {"temperature": 1.0, "max_tokens": 256},
                "ground_truth": {"boxes": boxes},
            }
            requests.append((None, request))
        groups = [
            {
                "mode": "rl",
                "request": answer["request"],
                "rollouts": answer["rollouts"],
                "rewards": answer["rewards"],
            }
            for _, answer in finetune.rollout_stream(requests)
        ]
        step = finetune.train_step(groups, lr=8e-5)["step"]
        if step in (1, steps):
            rewards = []
            for number in range(num_evaluated):
                image, boxes = boxed(1_000_000 + number, MANY)
                answer = finetune.rollouts(
                    "detect",
                    image=image,
                    object="shape",
                    settings={"temperature": 0.0, "max_tokens": 256},
                    ground_truth={"boxes": boxes},
                )
                rewards += answer["rewards"]
            mious.append(sum(rewards) / len(rewards))
            finetune.log_metrics(step, {"eval/miou": mious[-1]})
    return {"finetune_id": finetune.finetune_id, "step": step, "mious": mious}


if __name__ == "__main__":
    run(main)
