"""A1: query by rewards, photos of three classes, on a stream of rollouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import moondream as md
from moondream.finetune import Finetune

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import photo

QUESTION = "Is this a circle, a square or a triangle? Answer in one word."
EVALUATE_EVERY = 5
NUM_ROLLOUTS = 4


def training_requests() -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    while True:
        image, label = photo(number)
        number += 1
        yield (
            label,
            {
                "skill": "query",
                "image": image,
                "question": QUESTION,
                "num_rollouts": NUM_ROLLOUTS,
                "settings": {"temperature": 1.0, "max_tokens": 10},
            },
        )


def is_right(rollout: dict[str, Any], label: str) -> float:
    return float(label in rollout["output"]["answer"].lower())


def evaluate(finetune: Finetune, num_evaluated: int) -> float:
    """Share of right greedy answers on pictures that are not trained on."""
    right = 0.0
    for number in range(num_evaluated):
        image, label = photo(1_000_000 + number)
        answer = finetune.rollouts(
            "query",
            image=image,
            question=QUESTION,
            settings={"temperature": 0.0, "max_tokens": 10},
        )
        right += is_right(answer["rollouts"][0], label)
    return right / num_evaluated


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 10, num_evaluated: int = 20
) -> dict[str, Any]:
    name = f"shapes-query-{time.time_ns()}"
    finetune = md.ft(api_key, name=name, rank=8, endpoint=f"{endpoint}/v1/tuning")
    step, rewards, accuracies = 0, [], {}
    for label, answer in finetune.rollout_stream(training_requests()):
        group = {
            "mode": "rl",
            "request": answer["request"],
            "rollouts": answer["rollouts"],
            "rewards": [is_right(rollout, label) for rollout in answer["rollouts"]],
        }
        result = finetune.train_step([group], lr=1e-3)
        step = result["step"]
        rewards.append(result["reward_mean"])
        finetune.log_metrics(step, {"train/reward_mean": result["reward_mean"]})
        if step % EVALUATE_EVERY == 0:
            accuracies[step] = evaluate(finetune, num_evaluated)
            finetune.log_metrics(step, {"eval/accuracy": accuracies[step]})
        if step >= steps:
            break
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    model_id = finetune.model(checkpoint["step"])
    model = md.vl(api_key=api_key, endpoint=f"{endpoint}/v1", model=model_id)
    answer = model.query(photo(0)[0], QUESTION)["answer"]
    return {
        "finetune_id": finetune.finetune_id,
        "step": step,
        "rewards": rewards,
        "accuracies": accuracies,
        "model_id": model_id,
        "answer": answer,
    }


if __name__ == "__main__":
    run(main)
