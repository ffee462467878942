"""What a decoding step takes, and how that is to what it has to read."""

from __future__ import annotations

import statistics

from benchmarks.gpu.floors import TickReads, counted_experts
from benchmarks.gpu.growing import LONG_ENOUGH, MEAN_ADDED, growing, grown, tick, tick_ms
from benchmarks.gpu.large_model import DETECT, NUM_ROLLOUTS, LargeModel, of_tokens
from benchmarks.gpu.measuring import GIGA, median_seconds, peak_memory
from benchmarks.gpu.report import Part, Report
from contract.skills import Settings
from trainer.adapters.lora import Adapter
from trainer.decoder import Decoder, DecodeRequest

ROWS_AND_GROUPS = ((1, 1), (16, 1), (64, 4), (256, 16))
JUDGED = (64, 4)
LEAST_SHARE = 0.6

MANY_ROWS, MANY_PROMPTS = 64, 16
RANKS = (8, 32)
MOST_FINETUNES = 16
LEAST_LEFT = 0.85

NUM_COUNTED = 5
OBJECTS = Settings(temperature=1.0, max_objects=8)
ACTIONS_PER_BOX = 3


def ticks_name(num_rows: int, num_groups: int) -> str:
    """What the part is called in the report."""
    return f"decode, {num_rows} rows in {num_groups} groups"


def time_ticks(
    num_rows: int, num_groups: int, report: Report, large: LargeModel, part: Part
) -> None:
    """Rows of one finetune, as many of each prompt."""
    with peak_memory(part):
        decoder = growing(large.model, rows_of_groups(large, num_rows, num_groups))
        milliseconds = tick_ms(decoder)
    num_experts = count_experts(large, decoder)
    reads = reads_of(large, num_rows, num_groups, num_experts)
    ceiling_ms = large.floors.milliseconds(reads)
    part |= {
        "tick_ms": milliseconds,
        "tokens_per_second": 1e3 * num_rows / milliseconds,
        "distinct_experts": num_experts,
        "weights_gb": reads.weights / GIGA,
        "adapters_gb": reads.adapters / GIGA,
        "cache_gb": reads.cache / GIGA,
        "ceiling_ms": ceiling_ms,
        "share_of_ceiling": ceiling_ms / milliseconds,
    }
    report.line(
        f"decode {num_rows:3d} rows, {num_groups:2d} groups: {milliseconds:7.2f} ms a tick, "
        f"{part['tokens_per_second']:6.0f} tokens/s, {100 * part['share_of_ceiling']:3.0f} % of the"
        f" ceiling ({ceiling_ms:.2f} ms, {num_experts:.1f} experts)"
    )
    if (num_rows, num_groups) == JUDGED:
        share = part["share_of_ceiling"]
        report.target(f"{num_rows} rows: share of ceiling", share, bound=LEAST_SHARE, is_floor=True)


def rows_of_groups(large: LargeModel, num_rows: int, num_groups: int) -> list[DecodeRequest]:
    """Long answers of one finetune."""
    return [
        large.answers(
            large.prefix(picture),
            of_tokens(LONG_ENOUGH),
            num=num_rows // num_groups,
            adapter=large.adapter,
            seed=picture,
        )
        for picture in range(num_groups)
    ]


def count_experts(large: LargeModel, decoder: Decoder) -> float:
    """Different experts that a layer uses in a tick, mean over layers and some more ticks."""
    with counted_experts(large.model) as counts:
        tick(decoder, NUM_COUNTED)
    return statistics.mean(counts)


def reads_of(large: LargeModel, num_rows: int, num_groups: int, num_experts: float) -> TickReads:
    """What a tick of `rows_of_groups` has to read while it is timed."""
    return large.floors.tick(
        num_experts=num_experts,
        prompts=[large.prefix(picture).length for picture in range(num_groups)],
        num_rows=num_rows,
        num_added=MEAN_ADDED,
        adapters=[large.adapter],
    )


def time_boxes(report: Report, large: LargeModel, part: Part) -> None:
    """Rows that draw coordinates and sizes instead of words."""
    prefix = large.prefix(0, DETECT)
    request = large.answers(
        prefix, OBJECTS, num=NUM_ROLLOUTS, adapter=large.adapter, request=DETECT
    )
    seconds = median_seconds(lambda: grown(large.model, [request]))
    part["tick_ms"] = 1e3 * seconds / (ACTIONS_PER_BOX * OBJECTS.max_objects)
    report.line(f"decode {NUM_ROLLOUTS:3d} rows that draw boxes: {part['tick_ms']:.2f} ms a tick")


def time_finetunes(report: Report, large: LargeModel, part: Part) -> None:
    """The same rows and prompts, by the base model, one finetune, and many of mixed ranks."""
    mixed = [
        large.new_adapter(RANKS[seed % len(RANKS)], seed=seed) for seed in range(MOST_FINETUNES)
    ]
    cases: dict[str, list[Adapter | None]] = {
        "base only": [None],
        "1 of rank 8": [mixed[0]],
        "1 of rank 32": [mixed[1]],
        "4 mixed": [*mixed[:4]],
        "16 mixed": [*mixed],
    }
    times: dict[str, float] = {}
    for name, adapters in cases.items():
        requests = [
            large.answers(
                large.prefix(prompt),
                of_tokens(LONG_ENOUGH),
                num=MANY_ROWS // MANY_PROMPTS,
                adapter=adapters[prompt * len(adapters) // MANY_PROMPTS],
                seed=prompt,
            )
            for prompt in range(MANY_PROMPTS)
        ]
        times[name] = tick_ms(growing(large.model, requests))
    part["tick_ms"] = times
    part["share_of_one"] = {name: times["1 of rank 8"] / times[name] for name in times}
    part["share_of_base"] = {name: times["base only"] / times[name] for name in times}
    shown = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
    report.line(f"finetunes, {MANY_ROWS} rows of {MANY_PROMPTS} prompts: {shown}")
    for name in ("4 mixed", "16 mixed"):
        share = part["share_of_one"][name]
        report.target(f"{name}: speed of one finetune", share, bound=LEAST_LEFT, is_floor=True)
