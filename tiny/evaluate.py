r"""How good the tiny Moondream is: greedy answers on held-out scenes of one to three shapes.

    python -m tiny.evaluate tiny/checkpoint --out tiny/checkpoint/evaluation.json \
        --card tiny/checkpoint/README.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import torch

from contract.engine import Answer
from contract.skills import Pixels, Settings
from examples.shapes import Scene
from tiny.metrics import (
    bootstrap_interval,
    detect_reward,
    exact_match,
    matched_ious,
    mean,
    names_every_shape,
    point_f1,
    same_count,
)
from tiny.packing import as_contract
from tiny.scenes import heldout_example
from tiny.tasks import CaptionTask, DetectTask, PointTask, QueryTask, Task
from trainer.engine import TrainerEngine
from trainer.loading import load

TASKS_PER_SCENE = 8
AIMS = {
    "detect reward": ("detect reward", 0.60),
    "point in box, F1": ("point in box f1", 0.75),
    "query, exact match": ("query", 0.90),
    "captions that name every shape": ("caption names every shape", 0.60),
}
SETTINGS = Settings(temperature=0.0, max_tokens=64, max_objects=8)


def evaluate(engine: TrainerEngine, num_scenes: int, *, other_size_share: float = 0.2) -> dict:
    """Ask every task of `num_scenes` held-out scenes; measures by name, with 95 % intervals."""
    values: dict[str, list[float]] = defaultdict(list)
    for index in range(num_scenes):
        example = heldout_example(
            index, num_tasks=TASKS_PER_SCENE, other_size_share=other_size_share
        )
        image = as_pixels(example.scene)
        for task in example.tasks:
            _judge(engine, image, example.scene, task, values)
    report = {}
    for name, measured in sorted(values.items()):
        low, high = bootstrap_interval(measured)
        report[name] = {
            "mean": round(mean(measured), 4),
            "interval": [round(low, 4), round(high, 4)],
            "count": len(measured),
        }
    return report


def as_pixels(scene: Scene) -> Pixels:
    data = scene.image.tobytes()
    digest = hashlib.sha256(f"{scene.image.size}".encode() + data).hexdigest()
    return Pixels(height=scene.image.height, width=scene.image.width, digest=digest, data=data)


def _judge(
    engine: TrainerEngine, image: Pixels, scene: Scene, task: Task, values: dict[str, list[float]]
) -> None:
    request, _ = as_contract(task)
    answered = engine.answer(
        Answer(adapter=None, request=request, settings=SETTINGS, seed=0), [image]
    )
    output = answered.output
    if isinstance(task, QueryTask):
        right = exact_match(output["answer"], task.answer)
        kind = "query" if task.reasoning is None else "query with reasoning"
        values[kind].append(right)
        values[f"query: {task.topic}"].append(right)
    elif isinstance(task, DetectTask):
        found = [tuple(box.values()) for box in output["objects"]]
        values["detect reward"].append(detect_reward(found, task.boxes))
        values["detect: right count"].append(float(same_count(found, task.boxes)))
        values["detect: iou of matched"] += matched_ious(found, task.boxes)
    elif isinstance(task, PointTask):
        found = [(point["x"], point["y"]) for point in output["points"]]
        boxes = [s.box for s in scene.shapes if s.center in task.points]
        values["point in box f1"].append(point_f1(found, boxes))
    else:
        assert isinstance(task, CaptionTask)
        names = [shape.name for shape in scene.shapes]
        values["caption names every shape"].append(
            float(names_every_shape(output["caption"], names))
        )


def rewrite_table(card: Path, report: dict) -> None:
    """Put the measures that have an aim into a model card, from its table to its end."""
    lines = ["| Measure | Value | Interval | Aim | Reached | n |", "|---|---|---|---|---|---|"]
    for title, (name, aim) in AIMS.items():
        entry = report[name]
        low, high = entry["interval"]
        reached = "yes" if entry["mean"] >= aim else "**no**"
        lines.append(
            f"| {title} | {entry['mean']:.3f} | {low:.3f}-{high:.3f} | {aim:.2f} | {reached} "
            f"| {entry['count']} |"
        )
    iou, count = report["detect: iou of matched"]["mean"], report["detect: right count"]["mean"]
    lines += [
        "",
        f"Of matched boxes the mean IoU is {iou:.3f}; {count:.0%} of detect answers have the right "
        "number of boxes.",
    ]
    above, _, _ = card.read_text().partition("| Measure |")
    card.write_text(above + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--out", type=Path, help="write every measure here, as JSON")
    parser.add_argument("--card", type=Path, help="rewrite the table of this model card")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engine = TrainerEngine(load(arguments.checkpoint, name="tiny", device="cpu", dtype="float32"))
    report = evaluate(engine, arguments.scenes)
    for name, entry in report.items():
        low, high = entry["interval"]
        print(f"{name:28s} {entry['mean']:.3f} [{low:.3f}, {high:.3f}]  n={entry['count']}")  # noqa: T201
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.card is not None:
        rewrite_table(arguments.card, report)


if __name__ == "__main__":
    main()
