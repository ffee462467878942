"""How long each verb takes at full geometry, and how far that is from the floor."""

from __future__ import annotations

import statistics

import numpy as np

from benchmarks.gpu.floors import counted_experts
from benchmarks.gpu.large_model import NUM_ACTIONS, NUM_ROLLOUTS, QUERY, RANK, LargeModel, num_drawn
from benchmarks.gpu.measuring import median_seconds, peak_memory, timed
from benchmarks.gpu.report import Part, Report
from contract.engine import Answer
from contract.skills import Pixels, Settings, TunableRequest
from trainer.image_features import ImageFeatures
from trainer.model.crops import make_crops, tiling


def time_answer(report: Report, large: LargeModel, part: Part) -> None:
    """One answer, from the request to the words, beside what the engine itself reports of it."""
    command = Answer(
        adapter=large.finetune.adapter,
        request=QUERY,
        settings=Settings(temperature=1.0, max_tokens=64),
        seed=11,
    )
    large.engine.answer(command, [large.picture])
    with peak_memory(part):
        answered, seconds = timed(lambda: large.engine.answer(command, [large.picture]))
    part["answer_seconds"] = seconds
    part["num_tokens"] = answered.output_tokens
    part["prefill_ms"] = answered.prefill_time_ms
    part["decode_ms"] = answered.decode_time_ms
    report.line(
        f"answer of {answered.output_tokens} tokens: {1e3 * seconds:.1f} ms; as reported: prefill "
        f"{part['prefill_ms']:.1f} ms, decode {part['decode_ms']:.1f} ms; "
        f"peak {part['peak_gb']:.1f} GB"
    )


def time_first_step(report: Report, large: LargeModel, part: Part) -> None:
    """The first train step of a finetune: a fresh adapter and optimizer, nothing warm."""
    groups, pictures = large.groups(1)
    with peak_memory(part):
        trained, seconds = timed(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
    part |= {"rank": RANK, "step_seconds": seconds, "grad_norm": trained.grad_norm}
    if not trained.applied:
        raise RuntimeError(f"the step was not applied: {trained.skip_reason}")
    report.line(
        f"first train step at rank {RANK}, 1 x {NUM_ROLLOUTS} rollouts: {seconds:.2f} s, "
        f"gradient norm {trained.grad_norm:.3g}, peak {part['peak_gb']:.1f} GB"
    )


def time_encoding(report: Report, large: LargeModel, picture: Pixels, part: Part) -> None:
    vision = large.model.config.vision
    pixels_HWC = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    rows, cols = tiling(picture.height, picture.width, vision)
    # Under (1, 1) the only tile is the whole picture again, which the tower sees once.
    part["num_crops"] = 1 if (rows, cols) == (1, 1) else 1 + rows * cols
    part["crops_ms"] = 1e3 * median_seconds(lambda: make_crops(pixels_HWC, vision))
    with peak_memory(part):
        # A new cache every time, because the second look at a picture is free.
        part["encode_ms"] = 1e3 * median_seconds(lambda: ImageFeatures(large.model).of([picture]))
    report.line(
        f"encode {picture.width} x {picture.height}, {part['num_crops']} crops: "
        f"{part['encode_ms']:.1f} ms, of these {part['crops_ms']:.1f} ms cutting on the CPU"
    )


def time_decoding(
    report: Report,
    large: LargeModel,
    request: TunableRequest,
    num: int,
    short: dict[str, int],
    long: dict[str, int],
    part: Part,
) -> None:
    """Time short and long answers; what they differ by is decoding."""
    shortest = large.roll(request, num, **short)
    with counted_experts(large.model) as counts:
        longest = large.roll(request, num, **long)
    least, most = (max(map(num_drawn, made)) for made in (shortest, longest))
    with peak_memory(part):
        short_seconds = median_seconds(lambda: large.roll(request, num, **short))
        long_seconds = median_seconds(lambda: large.roll(request, num, **long))
    num_prompt = large.num_prompt(request)
    floors = large.floors.decode(
        num_experts=statistics.mean(counts) if counts else 0.0,
        num_rows=num,
        context=num_prompt + (least + most) / 2,
    )
    num_tokens = sum(map(num_drawn, longest))
    step_ms = 1e3 * (long_seconds - short_seconds) / (most - least)
    part |= {
        "num_prompt_positions": num_prompt,
        "num_tokens": num_tokens,
        "short_ms": 1e3 * short_seconds,
        "long_ms": 1e3 * long_seconds,
        "decode_ms_per_step": step_ms,
        "tokens_per_second": num_tokens / long_seconds,
        **floors,
        "ratio_to_roofline": step_ms / floors["roofline_ms"],
        "ratio_to_roofline_with_cache": step_ms / floors["roofline_with_cache_ms"],
    }
    report.line(
        f"{request.skill}, {num:2d} rollouts: {least} drawn {part['short_ms']:.1f} ms, then "
        f"{step_ms:.2f} ms a step; {part['tokens_per_second']:.0f} tokens/s; "
        f"{part['ratio_to_roofline']:.1f} x the reading of its weights"
    )


def time_training(report: Report, large: LargeModel, num: int, part: Part) -> None:
    groups, pictures = large.groups(num)
    with peak_memory(part):
        step_seconds = median_seconds(lambda: large.finetune.train_step(groups, pictures, lr=1e-5))
        compute_seconds = median_seconds(lambda: large.compute(groups, pictures))
    length = large.num_prompt(QUERY) + NUM_ACTIONS - 1
    num_rows = num * NUM_ROLLOUTS
    floor = large.floors.train(num_rows=num_rows, length=length, num_actions=NUM_ACTIONS)
    part |= {
        "num_rows": num_rows,
        "num_positions_per_row": length,
        "step_seconds": step_seconds,
        "compute_seconds": compute_seconds,
        "roofline_seconds": floor,
        "ratio_to_roofline": compute_seconds / floor,
    }
    report.line(
        f"train step, {num} x {NUM_ROLLOUTS} rollouts: {step_seconds:.2f} s, without files "
        f"{compute_seconds:.2f} s, {part['ratio_to_roofline']:.1f} x its arithmetic "
        f"({1e3 * floor:.0f} ms), peak {part['peak_gb']:.1f} GB"
    )
