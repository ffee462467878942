"""What one rollout costs when 1, 2, 4, 8 or 16 share their prompt, beside the formula.

    python -m benchmarks.group_size [--runs 5] [--picture benchmarks/results/cost-per-rollout.png]

Measured in process, one torch thread, float32: CPU seconds of one prefill (742 positions) and of
decoding 24 tokens for the whole group, divided by the size of the group. Our side of
`benchmarks.rollout_sides`: no vision tower, one adapter. Runs go round over the sizes; medians.

Two formulas of the performance notes (section 3) stand beside it, per rollout of a group of G; P
prompt positions, A tokens of an answer, c = 2 x weights that a token uses, a = 4 d L, W and kv the
bytes of all weights and of a position's keys and values:

    operations   [ (P + G A) c + a (P^2 + G A (P + A / 2)) ] / G
    reads        A [ W + (P + G A / 2) kv ] / G

The first is the divisor of the speed-up, without vision; the second is what decode steps read. They
become seconds at two speeds, both taken where G is 1: that of the prefill, and that of what
decoding takes beyond its operations (the calls of many small kernels are in it). From there on
nothing is fitted.

Prints one JSON line; `ratio` is the cost per rollout alone over that in a group of 16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.log_plot import Curve, draw_plot
from benchmarks.rollout_sides import HIDDEN, LAYERS, NUM_TOKENS, PREFIX, RANK, Ours
from trainer.prefill import prefill
from trainer.sampling import sample

SIZES = (1, 2, 4, 8, 16)
ALONE, LARGEST = SIZES[0], SIZES[-1]


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    ours = Ours()
    prefills, decodes = measured(ours, arguments.runs)
    prefill_seconds = statistics.median(prefills)
    decode_seconds = {g: statistics.median(decodes[g]) for g in SIZES}
    cost = {g: (prefill_seconds + decode_seconds[g]) / g for g in SIZES}
    formulas = predicted(ours, prefill_seconds, decode_seconds[ALONE])
    rounds = [
        LARGEST * (prefill + alone) / (prefill + together)
        for prefill, alone, together in zip(prefills, decodes[ALONE], decodes[LARGEST], strict=True)
    ]
    found: dict[str, Any] = {
        "name": "rollouts.cost_per_rollout",
        "ratio": cost[ALONE] / cost[LARGEST],
        "runs": arguments.runs,
        "spread": [min(rounds), max(rounds)],
        "formula_ratios": {name: f[ALONE] / f[LARGEST] for name, f in formulas.items()},
        "prefill_cpu_seconds": prefill_seconds,
        "cpu_seconds_per_rollout": cost,
        "formula_seconds_per_rollout": formulas,
    }
    print(json.dumps(found), flush=True)
    costs = list(cost.values())
    assert costs == sorted(costs, reverse=True), "a rollout of a larger group costs more"
    if arguments.picture is not None:
        draw(cost, formulas).save(arguments.picture)


def measured(ours: Ours, num_runs: int) -> tuple[list[float], dict[int, list[float]]]:
    """CPU seconds of a prefill, and of decoding a group by its size; one round before warms."""
    prefills: list[float] = []
    decodes: dict[int, list[float]] = {g: [] for g in SIZES}
    for run in range(num_runs + 1):
        started = time.process_time()
        prefix = prefill(ours.model, ours.adapter, ours.row, ours.features)
        prefilled = time.process_time() - started
        for g in SIZES:
            request = dataclasses.replace(ours.request(prefix), num_rollouts=g)
            started = time.process_time()
            traces = sample(ours.model, request)
            decoded = time.process_time() - started
            assert [len(trace.actions) for trace in traces] == [NUM_TOKENS] * g
            if run > 0:
                decodes[g].append(decoded)
        if run > 0:
            prefills.append(prefilled)
    return prefills, decodes


def predicted(
    ours: Ours, prefill_seconds: float, decode_seconds_alone: float
) -> dict[str, dict[int, float]]:
    """Seconds per rollout by the size of the group: operations alone, and with reads."""
    layers = sum(p.numel() for p in ours.model.text.blocks.parameters())
    factors = sum(t.numel() for t in ours.adapter.tensors.values())
    head = sum(p.numel() for p in ours.model.text.lm_head.parameters())
    c, a = 2 * (layers + factors), 4 * HIDDEN * LAYERS
    prompt_operations = PREFIX * c + a * PREFIX**2
    answer_operations = NUM_TOKENS * (c + 2 * head + a * (PREFIX + NUM_TOKENS / 2))
    answer_seconds = answer_operations * prefill_seconds / prompt_operations

    weight_bytes, kv = 4 * (layers + factors + head), 2 * 4 * LAYERS * HIDDEN
    read_bytes = {g: weight_bytes + (PREFIX + g * NUM_TOKENS / 2) * kv for g in SIZES}
    seconds_per_byte = (decode_seconds_alone - answer_seconds) / read_bytes[ALONE]
    operations = {g: prefill_seconds / g + answer_seconds for g in SIZES}
    reads = {g: seconds_per_byte * read_bytes[g] / g for g in SIZES}
    return {
        "operations": operations,
        "operations and reads": {g: operations[g] + reads[g] for g in SIZES},
    }


def draw(cost: dict[int, float], formulas: dict[str, dict[int, float]]) -> Image.Image:
    """All curves, in milliseconds."""
    curves = [Curve(label="measured", points=_in_milliseconds(cost))]
    curves += [
        Curve(label=f"formula: {name}", points=_in_milliseconds(seconds), is_dashed=True)
        for name, seconds in formulas.items()
    ]
    return draw_plot(
        curves,
        title=f"Cost per rollout: {PREFIX} positions of prompt, {NUM_TOKENS} tokens, rank {RANK}",
        x_label="rollouts in a group that shares its prompt",
        y_label="CPU milliseconds per rollout",
        x_ticks=SIZES,
    )


def _in_milliseconds(seconds: dict[int, float]) -> list[tuple[float, float]]:
    return [(size, 1e3 * value) for size, value in seconds.items()]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="PNG to write; absent: none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
