"""A11: query by examples over 10,000 pictures; a step whose answer is lost is sent again."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import speck

NUM_PICTURES = 10_000
BATCH_SIZE = 8
QUESTION = "Which color?"


def group(number: int) -> dict[str, Any]:
    image, channel = speck(number)
    request = {"skill": "query", "image": image, "question": QUESTION}
    return {"mode": "sft", "request": request, "target": {"answer": channel}}


def main(
    endpoint: str,
    api_key: str = "none",
    *,
    epochs: int = 1,
    num_pictures: int = NUM_PICTURES,
    num_evaluated: int = 8,
) -> dict[str, Any]:
    finetune = md.ft(
        api_key, name=f"colors-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )
    right = 0
    for number in range(num_evaluated):
        image, channel = speck(num_pictures + number)
        answer = finetune.rollouts(
            "query", image=image, question=QUESTION, settings={"temperature": 0.0, "max_tokens": 4}
        )
        right += answer["rollouts"][0]["output"]["answer"] == channel
    finetune.log_metrics(0, {"eval/accuracy": right / num_evaluated})
    num_batches = num_sent_again = 0
    result: dict[str, Any] = {}
    for _ in range(epochs):
        for first in range(0, num_pictures, BATCH_SIZE):
            groups = [group(number) for number in range(first, first + BATCH_SIZE)]
            num_batches += 1
            while True:
                try:
                    result = finetune.train_step(groups)
                    break
                except ConnectionError:  # the SDK raises when an answer breaks off
                    num_sent_again += 1
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    return {
        "finetune_id": finetune.finetune_id,
        "num_batches": num_batches,
        "num_sent_again": num_sent_again,
        "step": result["step"],
        "saved_step": checkpoint["step"],
        "sft_loss": result["sft_loss"],
    }


if __name__ == "__main__":
    run(main)
