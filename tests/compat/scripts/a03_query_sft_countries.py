"""A3: query by examples, flags and their countries: PIL images and settings inside the request."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import flag

BATCH_SIZE = 16


def main(
    endpoint: str, api_key: str = "none", *, epochs: int = 10, num_pictures: int = 28
) -> dict[str, Any]:
    """Epochs over the pictures; the last batch of each is shorter."""
    finetune = md.ft(
        api_key, name=f"countries-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )
    pictures = [flag(number) for number in range(num_pictures)]
    batches = [pictures[i : i + BATCH_SIZE] for i in range(0, num_pictures, BATCH_SIZE)]
    step, losses, lines = 0, [], []
    for batch in batches * epochs:
        groups = [
            {
                "mode": "sft",
                "request": {
                    "skill": "query",
                    "image": image,
                    "question": "Which country is this?",
                    "settings": {"temperature": 0.0, "max_tokens": 10},
                },
                "target": {"answer": country},
            }
            for image, country in batch
        ]
        result = finetune.train_step(groups, lr=2e-5)
        step = result["step"]
        losses.append(result["sft_loss"])
        lines.append(f"step {step} sft_loss {result['sft_loss']:.4f}")
    finetune.save_checkpoint()
    sizes = [len(batch) for batch in batches]
    return {
        "step": step,
        "batch_sizes": sizes,
        "lines": lines,
        "first_epoch_loss": epoch_loss(losses[: len(sizes)], sizes),
        "last_epoch_loss": epoch_loss(losses[-len(sizes) :], sizes),
    }


def epoch_loss(losses: list[float], sizes: list[int]) -> float:
    """Mean over all pictures."""
    return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


if __name__ == "__main__":
    run(main)
