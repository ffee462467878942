"""A2: query by rewards, scans of two classes: the present script and an older one."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import scan

QUESTION = "Is there a bright spot? Answer yes or no."


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 10, num_evaluated: int = 20
) -> dict[str, Any]:
    """As A1: one group of four rollouts a step, on a stream."""
    finetune = md.ft(
        api_key, name=f"scan-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )
    pictures = (scan(number) for number in range(10**9))
    requests = (
        (
            label,
            {
                "skill": "query",
                "image": image,
                "question": QUESTION,
                "num_rollouts": 4,
                "settings": {"temperature": 1.0, "max_tokens": 10},
            },
        )
        for image, label in pictures
    )
    step = 0
    for label, answer in finetune.rollout_stream(requests):
        rewards = [float(label in r["output"]["answer"].lower()) for r in answer["rollouts"]]
        group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
        step = finetune.train_step([{**group, "rewards": rewards}], lr=1e-3)["step"]
        if step % 5 == 0:
            finetune.log_metrics(step, {"eval/accuracy": _accuracy(finetune, num_evaluated, 10)})
        if step >= steps:
            break
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    model = md.vl(
        api_key=api_key, endpoint=f"{endpoint}/v1", model=finetune.model(checkpoint["step"])
    )
    answer = model.query(scan(0)[0], QUESTION)["answer"]
    return {"finetune_id": finetune.finetune_id, "step": step, "answer": answer}


def older_main(
    endpoint: str, api_key: str = "none", *, steps: int = 20, num_evaluated: int = 20
) -> dict[str, Any]:
    """Direct rollouts, a smaller rate, four tokens; it counts the metrics that were logged."""
    base = f"{endpoint}/v1"
    finetune = md.ft(api_key, name=f"scan-old-{time.time_ns()}", rank=8, endpoint=f"{base}/tuning")
    settings = {"temperature": 1.0, "max_tokens": 4}
    num_logged, step = 0, 0
    for number in range(steps):
        image, label = scan(number)
        answer = finetune.rollouts(
            "query", image=image, question=QUESTION, num_rollouts=4, settings=settings
        )
        rewards = [float(r["output"]["answer"].strip() == label) for r in answer["rollouts"]]
        group = {"mode": "rl", "request": answer["request"], "rollouts": answer["rollouts"]}
        result = finetune.train_step([{**group, "rewards": rewards}], lr=2e-4)
        step = result["step"]
        metrics = {"train/reward": result["reward_mean"], "train/kl": result["kl"]}
        num_logged += finetune.log_metrics(step, metrics)["logged_count"]
    num_logged += finetune.log_metrics(
        step, {"eval/accuracy": _accuracy(finetune, num_evaluated, 4)}
    )["logged_count"]
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    model = md.vl(api_key=api_key, endpoint=base, model=finetune.model(checkpoint["step"]))
    answer = model.query(scan(0)[0], QUESTION)["answer"]
    return {
        "finetune_id": finetune.finetune_id,
        "step": step,
        "num_logged": num_logged,
        "answer": answer,
    }


def _accuracy(finetune: Any, num_evaluated: int, max_tokens: int) -> float:
    settings = {"temperature": 0.0, "max_tokens": max_tokens}
    right = 0
    for number in range(num_evaluated):
        image, label = scan(1_000_000 + number)
        answer = finetune.rollouts("query", image=image, question=QUESTION, settings=settings)
        right += label in answer["rollouts"][0]["output"]["answer"].lower()
    return right / num_evaluated


if __name__ == "__main__":
    run(main)
