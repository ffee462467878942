"""Pretrain the tiny Moondream on drawn scenes; seeded, and resumable at any saved step.

In a first phase the vision tower learns to see, from labels of every patch; in a second one
everything learns to talk, point and draw boxes, and the labels stay as a part of the loss.

    python -m tiny.train --run tiny/runs/1

Batch k is a function of (seed, k) alone, so a run that was stopped and taken up again sees the
same examples as one that was not. The state is written every few minutes; `--export DIR` writes
what the run holds as a checkpoint in the published layout.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tiny.model_config import tiny_config
from tiny.packing import Pack, branch, pack
from tiny.patches import PatchHeads, patch_labels
from tiny.scenes import training_example
from tiny.tokenizer import build_tokenizer
from trainer.model.checkpoint import save_model
from trainer.model.config import NUM_BINS
from trainer.model.crops import make_crops
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import Tokenizer
from trainer.skills.base import Language

VISION_BATCH = 64  # pictures of a step of the first phase
BATCH = 16  # and of the second
NUM_TASKS = 7  # about each
PEAK_LR = 1.5e-3
WEIGHT_DECAY = 0.02
WARMUP_STEPS = 100
OTHER_SIZES_SHARE = 0.12  # pictures with other tilings than one by one
PATCH_WEIGHT = 0.5
BIN_WEIGHT = 0.5
STEPS_BETWEEN_SAVES = 200

Crops = tuple[np.ndarray, tuple[int, int]]


def blur_bins(progress: float) -> float:
    """Width in bins of the Gaussian around each label: wide at first, sharp at the end."""
    return 48.0 * (5.0 / 48.0) ** min(1.0, progress / 0.7)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak; of each phase by itself."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def shapes_range(step: int, steps: int) -> tuple[int, int]:
    """The curriculum of the second phase: few shapes first, up to four in the end."""
    return (1, 2) if step < 0.1 * steps else (1, 3 + (step % 4 == 0))


@torch.no_grad()
def start_smooth(model: Moondream, *, seed: int) -> None:
    """Start positions and bins as waves over their axis, so that neighbours are alike.

    Random codes have to be learned one by one: with them coordinates are still at chance after 300
    steps, with waves they begin to be read after 100.
    """
    generator = torch.Generator().manual_seed(seed)
    side, width = model.config.vision.grid_side, model.config.vision.enc_dim
    along = waves(side, width // 2, most_cycles=side / 4)
    rows = along[:, None].expand(side, side, -1)
    columns = along[None].expand(side, side, -1)
    model.vision.pos_emb.copy_(0.7 * torch.cat((rows, columns), -1).reshape(1, side * side, width))
    mix = torch.randn(128, model.config.text.dim, generator=generator) / math.sqrt(128)
    per_bin = 0.05 * waves(NUM_BINS, 128, most_cycles=20.0) @ mix
    model.region.coord_decoder.weight.copy_(per_bin)
    model.region.size_decoder.weight.copy_(per_bin.repeat(2, 1))


def waves(length: int, width: int, *, most_cycles: float) -> Tensor:
    """[length, width] sines and cosines from a quarter cycle to `most_cycles` over the axis."""
    frequency = torch.exp(
        torch.linspace(math.log(math.pi / 2), math.log(2 * math.pi * most_cycles), width // 2)
    )
    place = (torch.arange(length) + 0.5) / length
    angle = place[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=1)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures, what their patches show, and the packed tasks; none while the tower learns."""

    crops: list[Crops]
    labels_BPC: Tensor
    tasks: Pack | None


def make_vision_batch(seed: int, step: int, config: MoondreamConfig) -> Batch:
    """Draw the pictures of one step of the first phase."""
    scenes = [
        training_example(
            (seed << 36) + step * VISION_BATCH + index,
            num_tasks=0,
            num_shapes=(1, 4),
            other_size_share=OTHER_SIZES_SHARE,
        ).scene
        for index in range(VISION_BATCH)
    ]
    crops = [make_crops(np.asarray(scene.image), config.vision) for scene in scenes]
    return Batch(crops=crops, labels_BPC=patch_labels(scenes, config.vision.grid_side), tasks=None)


def make_batch(
    seed: int, step: int, steps: int, config: MoondreamConfig, language: Language
) -> Batch:
    """Draw the pictures and tasks of one step of the second phase."""
    examples = [
        training_example(
            (seed << 32) + step * BATCH + index,
            num_tasks=NUM_TASKS,
            num_shapes=shapes_range(step, steps),
            other_size_share=OTHER_SIZES_SHARE,
        )
        for index in range(BATCH)
    ]
    crops = [make_crops(np.asarray(e.scene.image), config.vision) for e in examples]
    rows = [[branch(task, language) for task in example.tasks] for example in examples]
    return Batch(
        crops=crops,
        labels_BPC=patch_labels([e.scene for e in examples], config.vision.grid_side),
        tasks=pack(rows, prefix_len=config.text.prefix_attn, language=language),
    )


def losses(model: Moondream, image_BPD: Tensor, batch: Pack, blur: float) -> dict[str, Tensor]:
    """Mean loss of each kind of draw."""
    embeds_BTD = model.embed_tokens(batch.ids_BT)
    num_image_tokens = image_BPD.shape[1]
    embeds_BTD = torch.cat(
        (embeds_BTD[:, :1], image_BPD, embeds_BTD[:, 1 + num_image_tokens :]), dim=1
    )
    shape = embeds_BTD.shape
    flat = embeds_BTD.reshape(-1, shape[-1])
    flat = flat.index_copy(0, batch.coord_at, model.region.encode_coord(batch.coord_values))
    flat = flat.index_copy(0, batch.size_at, model.region.encode_size(batch.size_values))
    hidden_BTD = model.text(
        flat.view(shape), positions_BT=batch.positions_BT, attention_mask_BTS=batch.mask_BTT
    )
    hidden_AD = hidden_BTD.reshape(-1, shape[-1])[batch.action_at]
    ids = model.config.tokenizer
    text = model.text.logits(hidden_AD[batch.is_free_A])
    pair = model.text.logits(
        hidden_AD[batch.is_choice_A], rows=torch.tensor([ids.coord_id, ids.eos_id])
    )
    is_end = (batch.tokens_A[batch.is_choice_A] == ids.eos_id).long()
    return {
        "text": F.cross_entropy(text, batch.tokens_A[batch.is_free_A]),
        "choice": F.cross_entropy(pair, is_end),
        "coord": _blurred_cross_entropy(
            model.region.coord_logits(hidden_AD[batch.coord_action]), batch.coord_bins, blur
        ),
        "size": _blurred_cross_entropy(
            model.region.size_logits(hidden_AD[batch.size_action]), batch.size_bins, blur
        ),
    }


def _blurred_cross_entropy(logits: Tensor, bins: Tensor, blur: float) -> Tensor:
    """Cross-entropy against a Gaussian around the right bin, less the Gaussian's own entropy."""
    offset = torch.arange(NUM_BINS) - bins[..., None]
    target = torch.softmax(-0.5 * (offset / blur) ** 2, dim=-1)
    log_probs = F.log_softmax(logits.float(), dim=-1)
    return (target * (torch.log(target + 1e-12) - log_probs)).sum(-1).mean()


def make_language(config: MoondreamConfig) -> Language:
    return Language(
        tokenizer=Tokenizer(build_tokenizer()),
        ids=config.tokenizer,
        vocab_size=config.text.vocab_size,
    )


def step_losses(
    model: Moondream, heads: PatchHeads, batch: Batch, progress: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a step and its parts."""
    image_BPD = model.vision.encode_images(batch.crops)
    parts = {"patches": heads.loss(image_BPD, batch.labels_BPC)}
    if batch.tasks is None:
        return parts["patches"], parts
    parts |= losses(model, image_BPD, batch.tasks, blur_bins(progress))
    loss = PATCH_WEIGHT * parts["patches"] + parts["text"] + parts["choice"]
    return loss + BIN_WEIGHT * (parts["coord"] + parts["size"]), parts


def train(
    run: Path, *, seed: int, vision_steps: int, steps: int, threads: int, minutes: float | None
) -> None:
    """Run both phases, from the start or from the saved state."""
    torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    config = tiny_config()
    language = make_language(config)
    model = Moondream.from_scratch(config, seed=seed).train()
    start_smooth(model, seed=seed)
    heads = PatchHeads(config.text.dim)
    everything = [*model.parameters(), *heads.parameters()]
    groups = [
        {"params": [p for p in everything if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98), foreach=True)
    state_file, log_file = run / "state.bin", run / "log.jsonl"
    step, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    average: dict[str, float] = {}
    started = time.monotonic()
    last = vision_steps + steps
    with log_file.open("a") as log:
        while step < last:
            is_seeing = step < vision_steps
            of_phase = step if is_seeing else step - vision_steps
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(of_phase, vision_steps if is_seeing else steps)
            batch = (
                make_vision_batch(seed, step, config)
                if is_seeing
                else make_batch(seed, of_phase, steps, config, language)
            )
            loss, parts = step_losses(model, heads, batch, of_phase / max(1, steps))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(everything, 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            step += 1
            for name, value in {**parts, "norm": norm}.items():
                average[name] = 0.98 * average.get(name, value.item()) + 0.02 * value.item()
            is_over = minutes is not None and time.monotonic() - started > 60 * minutes
            if step % 50 == 0:
                spent = seconds + time.monotonic() - started
                line = {"step": step, "seconds": round(spent, 1)}
                line |= {name: round(value, 4) for name, value in average.items()}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if step % STEPS_BETWEEN_SAVES == 0 or step == last or is_over:
                state = {
                    "model": model.state_dict(),
                    "heads": heads.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": seconds + time.monotonic() - started,
                }
                temporary = state_file.with_suffix(".tmp")
                torch.save(state, temporary)
                temporary.replace(state_file)
            if is_over:
                return


def export(run: Path, directory: Path) -> None:
    """Write the run's weights as a published checkpoint in bfloat16, with its tokenizer."""
    state = torch.load(run / "state.bin", weights_only=True)
    model = Moondream(tiny_config())
    model.load_state_dict(state["model"])
    directory.mkdir(parents=True, exist_ok=True)
    save_model(model, directory, dtype=torch.bfloat16)
    build_tokenizer().save(str(directory / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vision-steps", type=int, default=800, help="of the first phase")
    parser.add_argument("--steps", type=int, default=3200, help="of the second phase")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="stop after this time, resumable")
    parser.add_argument("--export", type=Path, help="write the checkpoint here and end")
    arguments = parser.parse_args()
    if arguments.export is not None:
        export(arguments.run, arguments.export)
    else:
        train(
            arguments.run,
            seed=arguments.seed,
            vision_steps=arguments.vision_steps,
            steps=arguments.steps,
            threads=arguments.threads,
            minutes=arguments.minutes,
        )


if __name__ == "__main__":
    main()
