"""What a finetune of the bundled tiny Moondream learns: three tasks, three seeds, the worst counts.

    python -m benchmarks.learning --out learning.json
    python -m benchmarks.learning --study [--quick] --out RUNS.jsonl [--picture CURVES.png]

    detect   RL: boxes around stars, a shape that the base has never seen. Mean reward.
    query    RL: a question the base was never asked, answered by colour and kind. Exact match.
    word     SFT: the word for a colour that the base has never seen. Exact match.

Everything goes through the official SDK. Held-out pictures have seeds that training never uses;
the 95 % interval is a bootstrap over pictures.

With `--study` no server is asked: `benchmarks.learning_study` trains in this process, with one
option changed at a time; docs/learning.md has what came out. A study that was cut off goes on where
it ended; `--quick` shows in a few minutes that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import moondream as md
from moondream.finetune import Finetune

from benchmarks.learning_study.study import study
from benchmarks.learning_tasks import (
    COLOR_QUESTION,
    FIRST_HELD_OUT_SEED,
    STAR,
    TEAL,
    THING_QUESTION,
    Box,
    first_training_seed,
    single_scene,
    star_boxes,
    star_scene,
    teal_scene,
    thing_answer,
)
from examples.shapes import Scene
from tiny.metrics import bootstrap_interval, matched_ious, mean, same_count

ROLLOUTS = 8
CORNERS = ("x_min", "y_min", "x_max", "y_max")
THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run: the measure before and after on the same held-out pictures."""

    task: str
    seed: int
    steps: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    details: dict[str, float]
    seconds: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def as_objects(boxes: list[Box]) -> list[dict[str, float]]:
    return [dict(zip(CORNERS, box, strict=True)) for box in boxes]


# --- measuring ---


def detect_rewards(finetune: Finetune, scenes: list[Scene]) -> tuple[list[float], dict[str, float]]:
    """Greedy rewards; apart from them the IoU of matched boxes and the share of right counts."""

    def ask(scene: Scene) -> tuple[float, list[float], bool]:
        truth = star_boxes(scene)
        answer = finetune.rollouts(
            "detect",
            image=scene.image,
            object=STAR,
            settings={"temperature": 0.0, "max_objects": 6},
            ground_truth={"boxes": as_objects(truth)},
        )
        objects = answer["rollouts"][0]["output"]["objects"]
        found = [tuple(box[corner] for corner in CORNERS) for box in objects]
        return answer["rewards"][0], matched_ious(found, truth), same_count(found, truth)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(ask, scenes))
    ious = [iou for _, matched, _ in answers for iou in matched]
    details = {
        "mean_iou_of_matched_boxes": mean(ious) if ious else 0.0,
        "share_of_right_counts": mean([float(same) for _, _, same in answers]),
    }
    return [reward for reward, _, _ in answers], details


def exact_matches(
    finetune: Finetune, scenes: list[Scene], question: str, answer_of: Callable[[Scene], str]
) -> tuple[list[float], dict[str, float]]:
    def ask(scene: Scene) -> float:
        answer = finetune.rollouts(
            "query",
            image=scene.image,
            question=question,
            settings={"temperature": 0.0, "max_tokens": 12},
        )
        return float(answer["rollouts"][0]["output"]["answer"] == answer_of(scene))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(ask, scenes)), {}


# --- training ---


def rl_steps(
    finetune: Finetune,
    requests: Iterator[tuple[Any, dict[str, Any]]],
    reward: Callable[[Any, dict[str, Any]], list[float]],
    *,
    steps: int,
    groups_per_step: int,
    lr: float,
) -> None:
    groups: list[dict[str, Any]] = []
    for context, answer in finetune.rollout_stream(requests):
        groups.append(
            {
                "mode": "rl",
                "request": answer["request"],
                "rollouts": answer["rollouts"],
                "rewards": reward(context, answer),
            }
        )
        if len(groups) == groups_per_step:
            result = finetune.train_step(groups, lr=lr)
            groups = []
            if result["step"] >= steps:
                return


def train_detect(finetune: Finetune, seed: int) -> int:
    def requests() -> Iterator[tuple[Any, dict[str, Any]]]:
        picture = first_training_seed(seed)
        while True:
            scene = star_scene(picture)
            picture += 1
            yield (
                None,
                {
                    "skill": "detect",
                    "image": scene.image,
                    "object": STAR,
                    "num_rollouts": ROLLOUTS,
                    "settings": {"temperature": 1.0, "max_objects": 6},
                    "ground_truth": {"boxes": as_objects(star_boxes(scene))},
                },
            )

    rl_steps(
        finetune,
        requests(),
        lambda _, answer: answer["rewards"],
        steps=40,
        groups_per_step=6,
        lr=5e-3,
    )
    return 40


def train_query(finetune: Finetune, seed: int) -> int:
    def requests() -> Iterator[tuple[Any, dict[str, Any]]]:
        picture = first_training_seed(seed)
        while True:
            scene = single_scene(picture)
            picture += 1
            yield (
                thing_answer(scene),
                {
                    "skill": "query",
                    "image": scene.image,
                    "question": THING_QUESTION,
                    "num_rollouts": 4,
                    "settings": {"temperature": 1.0, "max_tokens": 12},
                },
            )

    def reward(right: str, answer: dict[str, Any]) -> list[float]:
        return [float(rollout["output"]["answer"] == right) for rollout in answer["rollouts"]]

    rl_steps(finetune, requests(), reward, steps=24, groups_per_step=12, lr=5e-3)
    return 24


def train_word(finetune: Finetune, seed: int) -> int:
    picture, steps = first_training_seed(seed), 80
    for _ in range(steps):
        scenes = [teal_scene(picture + i) for i in range(8)]
        picture += 8
        groups = [
            {
                "mode": "sft",
                "request": {"skill": "query", "question": COLOR_QUESTION, "image": scene.image},
                "target": {"answer": TEAL},
            }
            for scene in scenes
        ]
        finetune.train_step(groups, lr=5e-3)
    return steps


Measure = Callable[[Finetune, list[Scene]], tuple[list[float], dict[str, float]]]

TASKS: dict[str, tuple[Callable[[int], Scene], Measure, Callable[[Finetune, int], int]]] = {
    "detect": (star_scene, detect_rewards, train_detect),
    "query": (
        single_scene,
        lambda f, scenes: exact_matches(f, scenes, THING_QUESTION, thing_answer),
        train_query,
    ),
    "word": (
        teal_scene,
        lambda f, scenes: exact_matches(f, scenes, COLOR_QUESTION, lambda _: TEAL),
        train_word,
    ),
}

PASSES: dict[str, Callable[[Outcome], bool]] = {
    "detect": lambda o: o.gain >= 0.10,
    "query": lambda o: 0.2 <= o.before <= 0.6 and o.after > 0.85,
    "word": lambda o: o.before < 0.2 and o.after > 0.8,
}


def run(endpoint: str, api_key: str, task: str, seed: int, num_held_out: int) -> Outcome:
    make_scene, measure, train = TASKS[task]
    held_out = [make_scene(FIRST_HELD_OUT_SEED + index) for index in range(num_held_out)]
    name = f"learning-{task}-{seed}-{int(time.time())}"
    finetune = md.ft(api_key, name=name, rank=8, endpoint=f"{endpoint}/v1/tuning")
    started = time.monotonic()
    before, _ = measure(finetune, held_out)
    steps = train(finetune, seed)
    after, details = measure(finetune, held_out)
    return Outcome(
        task=task,
        seed=seed,
        steps=steps,
        before=mean(before),
        before_interval=bootstrap_interval(before),
        after=mean(after),
        after_interval=bootstrap_interval(after),
        details=details,
        seconds=time.monotonic() - started,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--endpoint", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--study", action="store_true", help="in this process, without a server")
    parser.add_argument("--picture", type=Path, help="of the study's curves")
    parser.add_argument("--quick", action="store_true", help="of the study, one run of each task")
    arguments = parser.parse_args()
    if arguments.study:
        if arguments.out is None:
            parser.error("--study wants --out, where its finished runs are kept")
        study(arguments.out, arguments.picture, is_quick=arguments.quick)
        return 0
    outcomes: list[Outcome] = []
    for task in arguments.tasks:
        for seed in arguments.seeds:
            outcome = run(arguments.endpoint, arguments.api_key, task, seed, arguments.held_out)
            outcomes.append(outcome)
            low, high = outcome.after_interval
            verdict = "ok" if PASSES[task](outcome) else "BELOW ITS FLOOR"
            details = "  ".join(f"{name} {value:.2f}" for name, value in outcome.details.items())
            print(
                f"{task:7s} seed {seed}  {outcome.before:.2f} -> {outcome.after:.2f} "
                f"[{low:.2f}, {high:.2f}]  {outcome.steps} steps  {outcome.seconds:.0f} s  "
                f"{verdict}  {details}",
                flush=True,
            )
    if arguments.out is not None:
        machine = {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        }
        report = {"machine": machine, "outcomes": [asdict(outcome) for outcome in outcomes]}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(PASSES[outcome.task](outcome) for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
