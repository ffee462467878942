"""A14: a trained adapter is saved, asked, and fetched as other readers fetch it."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import moondream as md
from PIL import Image

from tests.compat.scripts.command_line import run
from tests.compat.scripts.pictures import boxed, photo

GREEDY = {"temperature": 0.0, "max_tokens": 12, "max_objects": 4}
QUESTION = "What shape is this?"
ANSWERS = ("teal star", "pink ring", "brown cross")


def greedy_answers(
    base: str, api_key: str, model_id: str | None, *, num_pictures: int
) -> list[Any]:
    """What a model says of some pictures, without chance."""
    model = md.vl(api_key=api_key, endpoint=base, model=model_id)
    said: list[Any] = []
    for number in range(num_pictures):
        image: Image.Image = photo(100 + number)[0]
        said.append(model.query(image, QUESTION, settings=GREEDY)["answer"])
        said.append(model.caption(image, length="short", settings=GREEDY)["caption"])
        said.append(model.detect(boxed(200 + number)[0], "shape", settings=GREEDY)["objects"])
        said.append(model.point(boxed(200 + number)[0], "shape", settings=GREEDY)["points"])
    return said


def main(
    endpoint: str, api_key: str = "none", *, rank: int = 32, steps: int = 4, num_pictures: int = 5
) -> dict[str, Any]:
    base = f"{endpoint}/v1"
    name = f"exported-{rank}-{time.time_ns()}"
    finetune = md.ft(api_key, name=name, rank=rank, endpoint=f"{base}/tuning")
    for _ in range(steps):
        groups: list[dict[str, Any]] = []
        for number, answer in enumerate(ANSWERS):
            request = {"skill": "query", "image": photo(number)[0], "question": QUESTION}
            groups.append({"mode": "sft", "request": request, "target": {"answer": answer}})
            image, boxes = boxed(number)
            request = {"skill": "detect", "image": image, "object": "shape"}
            groups.append({"mode": "sft", "request": request, "target": {"boxes": boxes[:1]}})
        finetune.train_step(groups, lr=1e-2)
    step = finetune.save_checkpoint()["checkpoint"]["step"]
    return {
        "finetune_id": finetune.finetune_id,
        "step": step,
        "of_base": greedy_answers(base, api_key, None, num_pictures=num_pictures),
        "of_server": greedy_answers(base, api_key, finetune.model(step), num_pictures=num_pictures),
        "file": fetch(f"{base}/tuning", api_key, finetune.finetune_id, step),
    }


def fetch(tuning: str, api_key: str, finetune_id: str, step: int) -> bytes:
    """The checkpoint's file: a link for those who have the key, which itself needs none."""
    path = f"{tuning}/finetunes/{finetune_id}/checkpoints/{step}/download"
    ask = urllib.request.Request(path, headers={"X-Moondream-Auth": api_key})
    with urllib.request.urlopen(ask, timeout=60) as answer:
        link = json.load(answer)["url"]
    with urllib.request.urlopen(link, timeout=60) as answer:
        return answer.read()


if __name__ == "__main__":
    run(lambda *arguments: {k: v for k, v in main(*arguments).items() if k != "file"})
