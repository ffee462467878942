"""Whether a finetune learns in bfloat16 what it learns in float32."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.local_finetune import LocalFinetune
from benchmarks.gpu.places import TINY_RANK, Place, tiny_model
from benchmarks.gpu.report import Part, Report
from contract.groups import SFTGroup
from contract.skills import Pixels, QueryRequest, QueryTarget, Settings
from examples.shapes import draw_scene
from tiny.evaluate import as_pixels
from trainer.engine import TrainerEngine

NUM_WORD_STEPS = 15
MOST_LOSS_LEFT = 0.5
MOST_LOSS_GAP = 0.1
WORD = QueryRequest(question="what color is the shape?", image=0)
ONE_WORD = Settings(temperature=0.0, max_tokens=8)
FIRST_HELD_OUT_SEED = 2**41


def learn_word(device: str, directory: Path, report: Report, part: Part) -> None:
    """Supervised steps on the word for a colour that the base has never seen.

    The verdict is on the losses, against those of the CPU in float32. Accuracy half-way through
    learning jumps from step to step in any precision, so it is told and not judged.
    """
    losses, before, after = word_steps((device, "bfloat16"), directory)
    wanted, _, wanted_after = word_steps(("cpu", "float32"), directory)
    part |= {"before": before, "after": after, "wanted_after": wanted_after}
    part["losses"] = [losses, wanted]
    part["fall"] = losses[-1] / losses[0]
    part["gap"] = max(abs(a - b) / b for a, b in zip(losses, wanted, strict=True))
    report.check("word task: last loss over first", part["fall"], bound=MOST_LOSS_LEFT)
    report.check("word task: losses against cpu float32", part["gap"], bound=MOST_LOSS_GAP)
    report.line(
        f"word task, {NUM_WORD_STEPS} steps: accuracy {before:.2f} -> {after:.2f} "
        f"(cpu float32: {wanted_after:.2f}), loss {losses[0]:.2f} -> {losses[-1]:.2f}"
    )


def word_steps(place: Place, directory: Path) -> tuple[list[float], float, float]:
    """The losses of all steps, and the accuracy on held-out pictures before and after."""
    engine = TrainerEngine(tiny_model(place))
    own_directory = directory / "-".join(("word", *place))
    finetune = LocalFinetune(engine, own_directory, rank=TINY_RANK, seed=3)
    held_out = [teal_scene(FIRST_HELD_OUT_SEED + index) for index in range(40)]

    def accuracy() -> float:
        made = [finetune.rollouts(WORD, image, ONE_WORD, num=1, seed=0) for image in held_out]
        return statistics.mean(one.rollouts[0].output["answer"] == "teal" for one in made)

    before = accuracy()
    losses: list[float] = []
    for step in range(NUM_WORD_STEPS):
        images = [teal_scene(8 * step + i) for i in range(8)]
        groups = [
            SFTGroup(request=replace(WORD, image=i), targets=(QueryTarget(answer="teal"),))
            for i in range(len(images))
        ]
        loss = finetune.train_step(groups, images, lr=1e-2).sft_loss
        losses.append(math.nan if loss is None else loss)
    return losses, before, accuracy()


def teal_scene(seed: int) -> Pixels:
    return as_pixels(draw_scene(seed, num_shapes=(1, 1), colors=("teal",)))
