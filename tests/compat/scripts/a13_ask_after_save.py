"""A13: right after a save, 24 threads ask the new model."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import moondream as md

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import photo

NUM_THREADS = 24
QUESTION = "What shape is this?"


def main(endpoint: str, api_key: str = "none", *, rounds: int = 3) -> dict[str, Any]:
    """Each round trains a step, saves it, and asks at once; a 404 would raise in its thread."""
    finetune = md.ft(
        api_key, name=f"asked-{time.time_ns()}", rank=8, endpoint=f"{endpoint}/v1/tuning"
    )
    image, _ = photo(5)
    request = {"skill": "query", "image": image, "question": QUESTION}
    answers: list[list[str]] = []
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for round_number in range(rounds):
            target = {"answer": ("alpha", "omega", "delta")[round_number % 3]}
            for _ in range(4):
                group = {"mode": "sft", "request": request, "target": target}
                finetune.train_step([group], lr=2e-2)
            model_id = finetune.model(finetune.save_checkpoint()["checkpoint"]["step"])

            def ask(_: int, model_id: str = model_id) -> str:
                model = md.vl(api_key=api_key, endpoint=f"{endpoint}/v1", model=model_id)
                settings = {"temperature": 0.0, "max_tokens": 8}
                return model.query(image, QUESTION, settings=settings)["answer"]

            answers.append(list(threads.map(ask, range(NUM_THREADS))))
    base = md.vl(api_key=api_key, endpoint=f"{endpoint}/v1")
    of_base = base.query(image, QUESTION, settings={"temperature": 0.0, "max_tokens": 8})
    return {"answers": answers, "of_base": of_base["answer"]}


if __name__ == "__main__":
    run(main)
