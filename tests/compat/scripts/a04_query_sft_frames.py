"""A4: query by examples, the action in nine frames: 128 pictures a step, bodies above 100 MB."""

from __future__ import annotations

import time
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import frame_grid

BATCH_SIZE = 128
QUESTION = "Which way does the dot move?"


def main(
    endpoint: str, api_key: str = "none", *, steps: int = 3, side: int = 840, noise: bool = True
) -> dict[str, Any]:
    """`side` is that of a picture in pixels; 840 of noise are about 0.9 MB."""
    finetune = md.ft(
        api_key, name=f"frames-{time.time_ns()}", rank=32, endpoint=f"{endpoint}/v1/tuning"
    )
    step, seconds = 0, []
    for batch in range(steps):
        groups = []
        for number in range(BATCH_SIZE * batch, BATCH_SIZE * (batch + 1)):
            image, action = frame_grid(number, side, noise)
            request = {"skill": "query", "image": image, "question": QUESTION}
            groups.append({"mode": "sft", "request": request, "target": {"answer": action}})
        start = time.monotonic()
        result = finetune.train_step(groups, lr=2e-4)
        seconds.append(time.monotonic() - start)
        step = result["step"]
        finetune.log_metrics(
            step, {"train/sft_loss": result["sft_loss"], "train/grad_norm": result["grad_norm"]}
        )
    return {"finetune_id": finetune.finetune_id, "step": step, "seconds": seconds}


if __name__ == "__main__":
    run(main)
