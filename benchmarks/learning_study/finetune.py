"""One run of the study: a finetune in this process, trained and measured as its plan says."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.learning_study.plan import START, Mode, Plan
from benchmarks.learning_study.tasks import GREEDY, TASKS, WARM
from benchmarks.learning_tasks import FIRST_HELD_OUT_SEED, first_training_seed
from contract.engine import AdapterRef, FileRef, MakeRollouts, RolloutsMade, TrainStep
from contract.groups import Group, RLGroup, SFTGroup, TrainOptions
from contract.skills import Pixels, ReturnedRollout, Settings
from examples.shapes import Scene
from tiny.evaluate import as_pixels
from trainer.engine import TrainerEngine

RANK = 8

Curve = list[tuple[int, float]]
"""Steps so far, and a value after them."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What became of a plan.

    Attributes:
        held_out: Mean reward of greedy answers about pictures that were not trained on.
        training: Mean reward of the rollouts of each RL step.
        sft_losses: Of the supervised steps.
        clipped: Mean share of actions that a clip cut.
        dropped: Rollouts that were left out, of all.
    """

    held_out: Curve
    training: Curve
    sft_losses: Curve
    clipped: float
    dropped: int
    seconds: float


Example = tuple[Scene, Pixels]


class StudyFinetune:
    """A fresh finetune of one plan."""

    def __init__(self, engine: TrainerEngine, plan: Plan, directory: Path):
        self._engine = engine
        self._plan = plan
        self._directory = directory
        self._task = TASKS[plan.task]
        self._options = TrainOptions(**{**START, **plan.options})
        self._optimizer: FileRef | None = None
        self._next_picture = first_training_seed(plan.seed)
        self._sampled: list[tuple[Group, Pixels]] = []
        self._adapter = AdapterRef(
            finetune_id=f"study-{plan.task}-{plan.variant}-{plan.seed}",
            step=0,
            rank=RANK,
            seed=plan.seed,
            weights=None,
        )

    def learn(self) -> Learned:
        """Train to the end, measuring on the way."""
        started = time.perf_counter()
        held_out = self._examples(FIRST_HELD_OUT_SEED, self._plan.num_held_out)
        curve: Curve = [(0, self._measure(held_out))]
        training: Curve = []
        losses: Curve = []
        clipped: list[float] = []
        dropped = step = 0
        for mode, steps in self._plan.phases:
            self._sampled = []
            for _ in range(steps):
                trained = self._train(self._groups(mode))
                step += 1
                if trained.reward_mean is not None:
                    training.append((step, trained.reward_mean))
                    clipped.append(trained.extra["clip_fraction"] or 0.0)
                    dropped += trained.extra["rollouts_dropped"]
                if trained.sft_loss is not None:
                    losses.append((step, trained.sft_loss))
                if step % self._plan.every == 0 or step == self._plan.num_steps:
                    curve.append((step, self._measure(held_out)))
        self._engine.drop(self._adapter.finetune_id)
        return Learned(
            held_out=curve,
            training=training,
            sft_losses=losses,
            clipped=statistics.fmean(clipped) if clipped else 0.0,
            dropped=dropped,
            seconds=time.perf_counter() - started,
        )

    def _groups(self, mode: Mode) -> list[tuple[Group, Pixels]]:
        num = self._plan.num_groups
        if mode == "sft":
            return [
                (SFTGroup(request=self._task.request, targets=(self._task.target(scene),)), image)
                for scene, image in self._new_examples(num)
            ]
        if not self._sampled:
            examples = self._new_examples(num * self._plan.num_steps_per_sampling)
            answers = self._answers(examples, WARM, self._plan.num_rollouts)
            self._sampled = [
                (self._rl_group(made, scene), image)
                for (scene, image), made in zip(examples, answers, strict=True)
            ]
        groups, self._sampled = self._sampled[:num], self._sampled[num:]
        return groups

    def _rl_group(self, made: RolloutsMade, scene: Scene) -> RLGroup:
        return RLGroup(
            request=self._task.request,
            rollouts=tuple(ReturnedRollout(**vars(rollout)) for rollout in made.rollouts),
            rewards=self._rewards(made, scene),
        )

    def _rewards(self, made: RolloutsMade, scene: Scene) -> tuple[float, ...]:
        if made.rewards is not None:
            return made.rewards
        return tuple(self._task.reward(scene, rollout.output) for rollout in made.rollouts)

    def _measure(self, examples: Sequence[Example]) -> float:
        answers = self._answers(examples, GREEDY, 1)
        return statistics.fmean(
            self._rewards(made, scene)[0]
            for (scene, _), made in zip(examples, answers, strict=True)
        )

    def _answers(
        self, examples: Sequence[Example], settings: Settings, num_rollouts: int
    ) -> list[RolloutsMade]:
        """Of all examples at once; the draws of a picture depend on the picture and the run."""
        truth = self._task.truth
        futures: list[Future[Any]] = [
            self._engine.begin(
                "make_rollouts",
                MakeRollouts(
                    adapter=self._adapter,
                    request=self._task.request,
                    settings=settings,
                    num_rollouts=num_rollouts,
                    seed=self._next_picture + index,
                    ground_truth=None if truth is None else truth(scene),
                ),
                [image],
            )
            for index, (scene, image) in enumerate(examples)
        ]
        while not all(future.done() for future in futures):
            self._engine.turn()
        return [future.result() for future in futures]

    def _train(self, groups: Sequence[tuple[Group, Pixels]]) -> Any:
        name = self._directory / str(self._adapter.step)
        command = TrainStep(
            adapter=self._adapter,
            optimizer=self._optimizer,
            groups=tuple(
                replace(group, request=replace(group.request, image=index))
                for index, (group, _) in enumerate(groups)
            ),
            lr=self._plan.lr,
            options=self._options,
            weights_path=f"{name}.weights",
            optimizer_path=f"{name}.optimizer",
        )
        trained = self._engine.train_step(command, [image for _, image in groups])
        old = (self._adapter.weights, self._optimizer)
        if trained.applied:
            self._optimizer = trained.optimizer
            self._adapter = replace(
                self._adapter, step=self._adapter.step + 1, weights=trained.weights
            )
            for file in old:
                if file is not None:
                    Path(file.path).unlink()
        return trained

    def _new_examples(self, num: int) -> list[Example]:
        first, self._next_picture = self._next_picture, self._next_picture + num
        return self._examples(first, num)

    def _examples(self, first: int, num: int) -> list[Example]:
        scenes = [self._task.scene(first + index) for index in range(num)]
        return [(scene, as_pixels(scene)) for scene in scenes]


def learn(engine: TrainerEngine, plan: Plan) -> Learned:
    with tempfile.TemporaryDirectory() as directory:
        return StudyFinetune(engine, plan, Path(directory)).learn()
