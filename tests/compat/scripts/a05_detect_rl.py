"""A5: detect by the server's rewards, endless data; the loop ends at its last step and no other."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed

GROUPS, ROLLOUTS = 8, 4
EMPTY_EVERY = 5


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 100, constant: bool = False
) -> dict[str, Any]:
    """With `constant` every reward is the same: nothing is learnt, and the loop ends as well."""
    finetune = md.ft(
        api_key, name=f"detect-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )

    def requests() -> Any:
        number = 0
        while True:
            image, boxes = boxed(number, (1, 1), EMPTY_EVERY)
            number += 1
            yield (
                None,
                {
                    "skill": "detect",
                    "image": image,
                    "object": "shape",
                    "num_rollouts": ROLLOUTS,
                    "settings": {"temperature": 1.0, "max_tokens": 32, "max_objects": 1},
                    "ground_truth": {"boxes": boxes},
                },
            )

    groups, num_calls, applied = [], 0, []
    for _, answer in finetune.rollout_stream(requests()):
        rewards = [0.5] * ROLLOUTS if constant else answer["rewards"]
        group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
        groups.append({**group, "rewards": rewards})
        if len(groups) < GROUPS:
            continue
        result = finetune.train_step(groups, lr=2e-3)
        groups, num_calls = [], num_calls + 1
        applied.append(result["applied"])
        if result["step"] == steps:
            break
    return {"num_calls": num_calls, "applied": applied}


if __name__ == "__main__":
    run(main)
