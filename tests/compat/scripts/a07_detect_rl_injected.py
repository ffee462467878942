"""A7: detect by rewards, where the worst rollout of a weak group is replaced by the truth.

The script builds that rollout from its own arithmetic of bins, which has to be the server's.
"""

from __future__ import annotations

import math
import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed

GROUPS, ROLLOUTS = 32, 8
WEAK = 0.5
MANY = (4, 7)
MAX_BIN = 1023
ZERO_BOX = {"x_min": 0.0, "y_min": 0.0, "x_max": 0.0, "y_max": 0.0}


def coord_bin(value: float) -> int:
    return min(max(round(value * MAX_BIN), 0), MAX_BIN)


def size_bin(value: float) -> int:
    scaled = (math.log2(max(value, 2**-10)) + 10) / 10 * MAX_BIN
    return min(max(round(scaled), 0), MAX_BIN)


def bins_of(boxes: list[dict[str, float]]) -> tuple[list[int], list[list[int]]]:
    """Centres as x, y, x, y, ... and one pair of width and height a box."""
    coords: list[int] = []
    sizes: list[list[int]] = []
    for box in boxes:
        coords.append(coord_bin((box["x_min"] + box["x_max"]) / 2))
        coords.append(coord_bin((box["y_min"] + box["y_max"]) / 2))
        width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
        sizes.append([size_bin(width), size_bin(height)])
    return coords, sizes


def true_rollout(boxes: list[dict[str, float]], num_boxes: int, ids: list[int]) -> dict[str, Any]:
    """What a rollout would look like that found everything, padded with boxes of zeros."""
    padded = boxes + [ZERO_BOX] * (num_boxes - len(boxes))
    coords, sizes = bins_of(padded)
    return {
        "skill": "detect",
        "finish_reason": "stop",
        "output": {"objects": padded},
        "answer_tokens": ids * len(padded),
        "thinking_tokens": [],
        "has_answer_separator": False,
        "coords": coords,
        "sizes": sizes,
    }


def num_unlike(rollout: dict[str, Any]) -> tuple[int, int]:
    """Of boxes that no edge cut: how many our bins name otherwise than the server's, and of all."""
    unlike = seen = 0
    for index, box in enumerate(rollout["output"]["objects"]):
        if any(edge in (0.0, 1.0) for edge in box.values()):
            continue
        coords, sizes = bins_of([box])
        seen += 1
        unlike += coords != rollout["coords"][2 * index : 2 * index + 2]
        unlike += sizes != [rollout["sizes"][index]]
    return unlike, seen


def main(endpoint: str, api_key: str = "none", *, steps: int = 1) -> dict[str, Any]:
    finetune = md.ft(
        api_key, name=f"injected-{time.time_ns()}", rank=32, endpoint=f"{endpoint}/v1/tuning"
    )
    num_injected = unlike = seen = 0
    results = []
    for step in range(steps):
        requests = []
        for number in range(GROUPS * step, GROUPS * (step + 1)):
            image, boxes = boxed(number, MANY)
            request = {
                "skill": "detect",
                "image": image,
                "object": "shape",
                "num_rollouts": ROLLOUTS,
                "settings": {"temperature": 1.0, "max_objects": 7},
                "ground_truth": {"boxes": boxes},
            }
            requests.append((boxes, request))
        groups = []
        for boxes, answer in finetune.rollout_stream(requests):
            rollouts, rewards = answer["rollouts"], answer["rewards"]
            for rollout in rollouts:
                found = num_unlike(rollout)
                unlike, seen = unlike + found[0], seen + found[1]
            with_boxes = [r for r in rollouts if r["answer_tokens"]]
            if with_boxes and sum(rewards) / ROLLOUTS < WEAK:
                worst = min(range(ROLLOUTS), key=rewards.__getitem__)
                coord_id = with_boxes[0]["answer_tokens"][0]
                size_id = with_boxes[0]["answer_tokens"][2]
                num_boxes = max(len(boxes) + 1, len(rollouts[worst]["sizes"]))
                rollouts[worst] = true_rollout(boxes, num_boxes, [coord_id, coord_id, size_id])
                rewards[worst] = 1.0
                num_injected += 1
            group = {"mode": "rl", "request": answer["request"], "rollouts": rollouts}
            groups.append({**group, "rewards": rewards})
        results.append(finetune.train_step(groups, lr=2e-4))
    return {
        "results": results,
        "num_injected": num_injected,
        "num_boxes_compared": seen,
        "num_bins_unlike": unlike,
    }


if __name__ == "__main__":
    run(main)
