"""A10: one loop for every skill and mode, that goes on where an earlier run stopped."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed, photo

SKILLS = ("query", "detect", "point")


def group_for(finetune: Any, step: int, mode: str) -> dict[str, Any]:
    """A group of the skill whose turn it is."""
    skill = SKILLS[step % len(SKILLS)]
    request: dict[str, Any] = {"skill": skill}
    if skill == "query":
        request["image"], label = photo(step)
        request["question"] = "What shape is this?"
        target: dict[str, Any] = {"answer": label}
    else:
        request["image"], boxes = boxed(step)
        request["object"] = "shape"
        target = {"boxes": boxes}
    if mode == "sft":
        return {"mode": "sft", "request": request, "target": target}
    truth = None if skill == "query" else target
    answer = finetune.rollouts(
        **request, num_rollouts=4, settings={"max_tokens": 24}, ground_truth=truth
    )
    rewards = answer["rewards"]
    if rewards is None:
        rewards = [float(target["answer"] in r["output"]["answer"]) for r in answer["rollouts"]]
    return {
        "mode": "rl",
        "request": answer["request"],
        "rollouts": answer["rollouts"],
        "rewards": rewards,
    }


def main(
    endpoint: str,
    api_key: str = "none",
    *,
    finetune_id: str | None = None,
    step: int = 0,
    more_steps: int = 30,
    save_every: int = 10,
) -> dict[str, Any]:
    """Take `more_steps` from `step` on, on a new finetune or on the one that is named."""
    tuning = f"{endpoint}/v1/tuning"
    if finetune_id is None:
        finetune = md.ft(api_key, name=f"loop-{time.time_ns()}", rank=32, endpoint=tuning)
    else:
        finetune = md.ft(api_key, finetune_id=finetune_id, endpoint=tuning)
    steps, saved = [], []
    for _ in range(more_steps):
        mode = ("rl", "sft")[step // len(SKILLS) % 2]
        step = finetune.train_step([group_for(finetune, step, mode)], lr=1e-4)["step"]
        steps.append(step)
        if step % save_every == 0:
            saved.append(finetune.save_checkpoint()["checkpoint"]["step"])
    return {"finetune_id": finetune.finetune_id, "steps": steps, "saved": saved}


if __name__ == "__main__":
    run(main)
