"""Teach Moondream a shape that it has never seen, by rewards alone, with the official SDK.

    python examples/quickstart.py --endpoint http://127.0.0.1:8000

The bundled tiny Moondream knows circles, squares and triangles, but no star: it overlooks some, and
its boxes fit badly. Each step asks for a few answers to "detect star" on fresh pictures, the server
scores them against the true boxes, and a train step makes the better answers likelier. Run it again
with the same --name, and it goes on where it was.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import moondream as md
from moondream.finetune import Finetune
from PIL import Image, ImageDraw
from shapes import TRAINED_COLORS, Scene, draw_scene

OBJECT = "star"
STEPS = 40
PICTURES_PER_STEP = 6
ROLLOUTS_PER_PICTURE = 8
LEARNING_RATE = 5e-3
HELD_OUT = 100
LEAST_GAIN = 0.10
FIRST_HELD_OUT_SEED = 2**41
GREEDY = {"temperature": 0.0, "max_objects": 6}


def make_scene(seed: int) -> Scene:
    """One to three stars, so that saying nothing never pays."""
    return draw_scene(seed, kinds=(OBJECT,), colors=TRAINED_COLORS)


def true_boxes(scene: Scene) -> list[dict[str, float]]:
    corners = ("x_min", "y_min", "x_max", "y_max")
    return [dict(zip(corners, shape.box, strict=True)) for shape in scene.shapes]


def training_requests(first_seed: int) -> Iterator[tuple[None, dict]]:
    """Endless fresh pictures as rollout requests."""
    seed = first_seed
    while True:
        scene = make_scene(seed)
        seed += 1
        yield (
            None,
            {
                "skill": "detect",
                "image": scene.image,
                "object": OBJECT,
                "num_rollouts": ROLLOUTS_PER_PICTURE,
                "settings": {"temperature": 1.0, "max_objects": 6},
                "ground_truth": {"boxes": true_boxes(scene)},
            },
        )


def evaluate(finetune: Finetune, scenes: list[Scene]) -> float:
    """Mean reward of the greedy answers on pictures that were never trained on."""
    requests = (
        (
            None,
            {
                "skill": "detect",
                "image": scene.image,
                "object": OBJECT,
                "settings": GREEDY,
                "ground_truth": {"boxes": true_boxes(scene)},
            },
        )
        for scene in scenes
    )
    rewards = [answer["rewards"][0] for _, answer in finetune.rollout_stream(requests)]
    return sum(rewards) / len(rewards)


def train(finetune: Finetune, steps: int, first_seed: int) -> int:
    """Train until the finetune is at step `steps`; returns the step it is at."""
    step, groups = 0, []
    for _, answer in finetune.rollout_stream(training_requests(first_seed)):
        groups.append(
            {
                "mode": "rl",
                "request": answer["request"],
                "rollouts": answer["rollouts"],
                "rewards": answer["rewards"],
            }
        )
        if len(groups) < PICTURES_PER_STEP:
            continue
        result = finetune.train_step(groups, lr=LEARNING_RATE)
        step, groups = result["step"], []
        finetune.log_metrics(step, {"train/reward": result["reward_mean"]})
        show_progress(step, steps, result["reward_mean"])
        if step % 10 == 0:
            finetune.save_checkpoint()
        if step >= steps:
            break
    print()
    return step


def show_progress(step: int, steps: int, reward: float) -> None:
    filled = round(30 * min(1.0, step / steps))
    bar = "█" * filled + "·" * (30 - filled)
    end = "" if sys.stdout.isatty() else "\n"
    print(f"\r  {bar} step {step:3d}/{steps}  reward {reward:.2f}", end=end, flush=True)


def draw_comparison(path: Path, scenes: list[Scene], before: list, after: list) -> None:
    """Upper row: boxes of the base model; lower row: of the finetune; thin and black: the truth."""
    side = 168
    sheet = Image.new("RGB", (side * len(scenes), 2 * side), "white")
    for column, scene in enumerate(scenes):
        for row, boxes in enumerate((before[column], after[column])):
            tile = scene.image.resize((side, side), Image.Resampling.LANCZOS)
            pen = ImageDraw.Draw(tile)
            for shown, color, width in ((boxes, "cyan", 4), (true_boxes(scene), "black", 1)):
                for box in shown:
                    corners = [box[name] * side for name in ("x_min", "y_min", "x_max", "y_max")]
                    pen.rectangle(corners, outline=color, width=width)
            pen.text(
                (4, 4), ("before", "after")[row], fill="black", stroke_width=2, stroke_fill="white"
            )
            sheet.paste(tile, (side * column, side * row))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--endpoint", default="http://127.0.0.1:8000", help="where moontune is")
    parser.add_argument("--api-key", default=os.environ.get("MOONTUNE_API_KEY", "none"))
    parser.add_argument("--name", default=f"star-{int(time.time())}")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("quickstart.png"))
    arguments = parser.parse_args()
    endpoint = arguments.endpoint.rstrip("/")

    tuning = f"{endpoint}/v1/tuning"
    finetune = md.ft(arguments.api_key, name=arguments.name, rank=8, endpoint=tuning)
    # A finetune that was never trained answers like the base model, also when ours is resumed.
    untrained = md.ft(arguments.api_key, name="untrained", rank=8, endpoint=tuning)
    base = md.vl(api_key=arguments.api_key, endpoint=f"{endpoint}/v1")
    held_out = [make_scene(FIRST_HELD_OUT_SEED + index) for index in range(arguments.held_out)]
    print(f'Finetune {finetune.name}: learning to detect "{OBJECT}" from rewards.')

    before = evaluate(untrained, held_out)
    print(f"  held-out reward before: {before:.2f}  ({len(held_out)} pictures)")
    saved = [checkpoint["step"] for checkpoint in finetune.list_checkpoints()["checkpoints"]]
    pictures_seen = max(saved, default=0) * PICTURES_PER_STEP
    step = train(finetune, arguments.steps, first_seed=(arguments.seed << 20) + pictures_seen)
    checkpoint = finetune.save_checkpoint()["checkpoint"]
    after = evaluate(finetune, held_out)
    finetune.log_metrics(step, {"eval/reward": after})
    print(f"  held-out reward after:  {after:.2f}  (gain {after - before:+.2f})")

    model = finetune.model(checkpoint["step"])
    tuned = md.vl(api_key=arguments.api_key, endpoint=f"{endpoint}/v1", model=model)
    shown = held_out[:6]
    draw_comparison(
        arguments.picture,
        shown,
        [base.detect(scene.image, OBJECT, settings=GREEDY)["objects"] for scene in shown],
        [tuned.detect(scene.image, OBJECT, settings=GREEDY)["objects"] for scene in shown],
    )
    key = 'api_key=os.environ["MOONTUNE_API_KEY"], ' if "MOONTUNE_API_KEY" in os.environ else ""
    print(f"""
  picture  {arguments.picture.resolve()}
  server   {endpoint}
  model    {model}

Use it from anywhere that reaches the server:

  import moondream as md
  model = md.vl({key}endpoint="{endpoint}/v1", model="{model}")
  print(model.detect(image, "{OBJECT}"))
""")
    if after - before < LEAST_GAIN:
        print(f"The gain is below {LEAST_GAIN:.2f}: something is wrong.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
