"""A8: the documented quickstart: a loop on direct rollouts, and another one on a stream."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import photo

QUESTION = "What shape is this?"
SETTINGS = {"temperature": 1.0, "max_tokens": 10}


def main(endpoint: str, api_key: str = "none", *, steps: int = 20) -> dict[str, Any]:
    """Each loop takes `steps` steps, on one finetune after the other."""
    reached = []
    for loop in (direct, streamed):
        name = f"quickstart-{loop.__name__}-{time.time_ns()}"
        finetune = md.ft(api_key, name=name, rank=8, endpoint=f"{endpoint}/v1/tuning")
        reached.append(loop(finetune, steps))
        finetune.save_checkpoint()
    return {"reached": reached}


def direct(finetune: Any, steps: int) -> int:
    step = 0
    for number in range(steps):
        image, label = photo(number)
        answer = finetune.rollouts(
            "query", image=image, question=QUESTION, num_rollouts=4, settings=SETTINGS
        )
        step = train(finetune, answer, label)
    return step


def streamed(finetune: Any, steps: int) -> int:
    requests = []
    for number in range(steps):
        image, label = photo(number)
        request = {"skill": "query", "image": image, "question": QUESTION}
        requests.append((label, {**request, "num_rollouts": 4, "settings": SETTINGS}))
    return max(
        train(finetune, answer, label) for label, answer in finetune.rollout_stream(requests)
    )


def train(finetune: Any, answer: dict[str, Any], label: str) -> int:
    rewards = [float(label in r["output"]["answer"].lower()) for r in answer["rollouts"]]
    group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
    return finetune.train_step([{**group, "rewards": rewards}], lr=1e-3)["step"]


if __name__ == "__main__":
    run(main)
