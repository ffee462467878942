"""How long callers wait: groups of rollouts about new pictures, and a lone question."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.gpu.growing import grown
from benchmarks.gpu.large_model import NUM_ROLLOUTS, NUM_TOKENS, QUERY, LargeModel, of_tokens
from benchmarks.gpu.measuring import median_seconds, peak_memory, timed
from benchmarks.gpu.report import Part, Report
from contract.engine import Answer, MakeRollouts, RolloutsMade
from contract.skills import Pixels, QueryRequest
from trainer.model.crops import make_crops
from trainer.prefill import prefill

MOST_GROUP_MS = 200.0
NUM_AT_ONCE = (4, 16)
JUDGED_AT_ONCE = 4
LEAST_ATTEMPTS_PER_SECOND = 200.0
NUM_ASKED = 7


def time_group(report: Report, large: LargeModel, part: Part) -> None:
    """Sixteen attempts about a new picture, and the parts of it one by one."""

    def group() -> RolloutsMade:
        picture = large.new_picture()
        return large.finetune.rollouts(QUERY, picture, of_tokens(), num=NUM_ROLLOUTS, seed=11)

    check_lengths([group()])
    with peak_memory(part):
        part["group_ms"] = 1e3 * median_seconds(group, repeats=5)
    picture = large.pictures[0]
    pixels_HWC = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    vision = large.model.config.vision
    crops = make_crops(pixels_HWC, vision)
    row, features = large.row(QUERY, picture), large.features([picture])
    request = large.answers(
        large.prefix(0), of_tokens(), num=NUM_ROLLOUTS, adapter=large.adapter, seed=11
    )
    pieces = {
        "tiling": lambda: make_crops(pixels_HWC, vision),
        "vision": lambda: large.model.vision.encode_images([crops]),
        "prefill": lambda: prefill(large.model, large.adapter, row, features),
        "decode": lambda: grown(large.model, [request]),
    }
    part["pieces_ms"] = {name: 1e3 * median_seconds(work) for name, work in pieces.items()}
    part["num_crops"] = 1 if crops[1] == (1, 1) else len(crops[0])
    shown = ", ".join(f"{name} {value:.1f}" for name, value in part["pieces_ms"].items())
    report.line(
        f"{NUM_ROLLOUTS} attempts of {NUM_TOKENS} tokens, new picture of {part['num_crops']} "
        f"crops: {part['group_ms']:.1f} ms ({shown})"
    )
    report.target("16 attempts, new picture: ms", part["group_ms"], bound=MOST_GROUP_MS)


def time_groups(report: Report, large: LargeModel, part: Part) -> None:
    """Several such calls that come at the same time."""
    for num in NUM_AT_ONCE:
        check_lengths(at_once(large, num))
        seconds = median_seconds(lambda num=num: at_once(large, num))
        rate = num * NUM_ROLLOUTS / seconds
        part[f"{num} groups"] = {"milliseconds": 1e3 * seconds, "attempts_per_second": rate}
        report.line(f"{num:2d} groups at once: {1e3 * seconds:.0f} ms, {rate:.0f} attempts/s")
        if num == JUDGED_AT_ONCE:
            name = f"{num} groups at once: attempts/s"
            report.target(name, rate, bound=LEAST_ATTEMPTS_PER_SECOND, is_floor=True)


def at_once(large: LargeModel, num: int) -> list[RolloutsMade]:
    """Calls of one finetune about new pictures."""
    outcomes = [
        large.engine.begin(
            "make_rollouts",
            MakeRollouts(
                adapter=large.finetune.adapter,
                request=QUERY,
                settings=of_tokens(),
                num_rollouts=NUM_ROLLOUTS,
                seed=seed,
            ),
            [large.new_picture()],
        )
        for seed in range(num)
    ]
    while not all(outcome.done() for outcome in outcomes):
        large.engine.turn()
    return [outcome.result() for outcome in outcomes]


def check_lengths(made: Sequence[RolloutsMade]) -> None:
    """Every attempt has to be as long as the number that is told of it says."""
    lengths = {len(r.answer_tokens) for one in made for r in one.rollouts}
    if lengths != {NUM_TOKENS}:
        raise RuntimeError(f"attempts have {sorted(lengths)} tokens, wanted {NUM_TOKENS}")


def time_first_token(report: Report, large: LargeModel, part: Part) -> None:
    """From the arrival of a question, when there is nothing else to do, to its first token."""
    known = large.new_picture()
    number = iter(range(1000))
    cases: dict[str, Callable[[], tuple[Pixels, QueryRequest]]] = {
        "new picture": lambda: (large.new_picture(), QUERY),
        "known picture, new question": lambda: (known, _question(next(number))),
        "known picture and question": lambda: (known, QUERY),
    }
    for name, ask in cases.items():
        _first_token_ms(large, *ask())
        waited = [_first_token_ms(large, *ask()) for _ in range(NUM_ASKED)]
        part[name] = {"median_ms": statistics.median(waited), "most_ms": max(waited)}
    shown = ", ".join(f"{name} {part[name]['median_ms']:.1f} ms" for name in cases)
    report.line(f"first token of a lone query: {shown}")


def _first_token_ms(large: LargeModel, picture: Pixels, question: QueryRequest) -> float:
    command = Answer(
        adapter=large.finetune.adapter, request=question, settings=of_tokens(1), seed=11
    )
    answered, _ = timed(lambda: large.engine.answer(command, [picture]))
    return answered.ttft_ms


def _question(number: int) -> QueryRequest:
    return QueryRequest(question=f"how many circles are there, and is it {number:03d}?", image=0)
