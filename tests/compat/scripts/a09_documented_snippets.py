"""A9: every snippet of the SDK's page: each skill by rewards and by examples, list, delete."""

from __future__ import annotations

import time
import urllib.error
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed

REASONING = {
    "text": "a circle at the left",
    "grounding": [{"start_idx": 2, "end_idx": 8, "points": [[0.25, 0.5]]}],
}


def main(endpoint: str, api_key: str = "none") -> dict[str, Any]:
    """Returns the answers as they came, by what they answer."""
    tuning = f"{endpoint}/v1/tuning"
    finetune = md.ft(api_key, name=f"snippets-{time.time_ns()}", rank=8, endpoint=tuning)
    image, boxes = boxed(3)
    points = [
        {"x": (box["x_min"] + box["x_max"]) / 2, "y": (box["y_min"] + box["y_max"]) / 2}
        for box in boxes
    ]
    rollouts = {
        "query": finetune.rollouts(
            "query", image=image, question="What is this?", num_rollouts=2, reasoning=True
        ),
        "query without an image": finetune.rollouts("query", question="What is red?"),
        "query about places": finetune.rollouts(
            "query",
            image=image,
            question="What is here?",
            spatial_refs=[[0.5, 0.5], [0.1, 0.1, 0.4, 0.4]],
            settings={"temperature": 0.7, "top_p": 0.9, "max_tokens": 16},
        ),
        "point to points": finetune.rollouts(
            "point",
            image=image,
            object="shape",
            num_rollouts=2,
            settings={"max_tokens": 32},
            ground_truth={"points": points},
        ),
        "point into boxes": finetune.rollouts(
            "point", image=image, object="shape", num_rollouts=2, ground_truth={"boxes": boxes}
        ),
        "detect": finetune.rollouts(
            "detect",
            image=image,
            object="shape",
            num_rollouts=4,
            settings={"max_objects": 4},
            ground_truth={"boxes": boxes},
        ),
    }
    rl_groups = [
        {
            "mode": "rl",
            "request": answer["request"],
            "rollouts": answer["rollouts"],
            "rewards": answer["rewards"] or [1.0, 0.0][: len(answer["rollouts"])],
        }
        for answer in rollouts.values()
    ]
    sft_groups = [
        sft(
            {"skill": "query", "image": image, "question": "What is this?"},
            {"answer": "a shape"},
        ),
        sft(
            {"skill": "query", "image": image, "question": "What is left?", "reasoning": True},
            {"answer": "a circle", "reasoning": REASONING},
        ),
        sft({"skill": "point", "image": image, "object": "shape"}, {"points": points}),
        sft({"skill": "point", "image": image, "object": "shape"}, {"boxes": boxes}),
        sft({"skill": "detect", "image": image, "object": "shape"}, {"boxes": boxes}),
        sft({"skill": "detect", "image": image, "object": "unicorn"}, {"boxes": []}),
    ]
    steps = {
        "by rewards": finetune.train_step(rl_groups, lr=1e-3),
        "by examples": finetune.train_step(sft_groups, lr=1e-3),
        "mixed": finetune.train_step(rl_groups + sft_groups),
    }
    logged = finetune.log_metrics(step=3, metrics={"eval/accuracy": 0.85, "eval/f1": 0.82})
    saved = finetune.save_checkpoint()
    listed = finetune.list_checkpoints()
    taken_up = md.ft(api_key, finetune_id=finetune.finetune_id, endpoint=tuning)
    model_id = finetune.model(3)
    finetune.delete_checkpoint(step=3)
    listed_after = finetune.list_checkpoints(limit=10)
    finetune.delete()
    return {
        "rollouts": rollouts,
        "steps": steps,
        "logged": logged,
        "saved": saved,
        "listed": listed,
        "listed_after": listed_after,
        "model_id": model_id,
        "taken_up": {"name": taken_up.name, "rank": taken_up.rank},
        "is_same_name": taken_up.name == finetune.name,
        "status_after_delete": status_of(finetune),
    }


def sft(request: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "sft", "request": request, "target": target}


def status_of(finetune: Any) -> int:
    try:
        finetune.rollouts("query", question="Hello?")
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return 200


if __name__ == "__main__":
    run(main)
