"""What bfloat16 does to rollouts in full geometry: told, not judged.

The sampler and the trainer compute the same log-probabilities in another order of additions, and so
does a batch of another size; a near-tie may then draw another token or choose another expert.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.gpu.decoder_correctness import drawn, logprobs_of
from benchmarks.gpu.growing import grown
from benchmarks.gpu.large_model import DETECT, NUM_ROLLOUTS, QUERY, LargeModel, of_tokens
from benchmarks.gpu.report import Part, Report
from contract.skills import Settings, TunableRequest
from trainer.packing import pack
from trainer.scoring import score
from trainer.sequence import Trace

OBJECTS = Settings(temperature=1.0, max_objects=8)
NUM_ROWS, NUM_PROMPTS, NUM_ALONE = 64, 4, 16


def compare_with_scores(report: Report, large: LargeModel, part: Part) -> None:
    """Log-probabilities of sampled rollouts against those of `trainer.scoring`, same weights."""
    for request, settings in ((QUERY, of_tokens()), (DETECT, OBJECTS)):
        prefix = large.prefix(0, request)
        asked = large.answers(
            prefix, settings, num=NUM_ROLLOUTS, adapter=large.adapter, request=request
        )
        (traces,) = grown(large.model, [asked])
        gaps = _gaps(large, request, traces)
        found = {"num_draws": len(gaps), "mean": statistics.mean(gaps), "max": max(gaps)}
        part[request.skill] = found
        report.line(
            f"sampler - trainer, {request.skill}, bfloat16: log-probabilities differ by "
            f"{found['mean']:.1e} in the mean, {found['max']:.1e} at most"
        )


@torch.no_grad()
def _gaps(large: LargeModel, request: TunableRequest, traces: Sequence[Trace]) -> list[float]:
    """Absolute differences of everything that was drawn."""
    picture = large.pictures[0]
    row = large.row(request, picture)
    rows = [replace(row, actions=trace.actions) for trace in traces]
    packed = pack(large.model, rows, large.features([picture]))
    scores = score(large.model, packed, large.adapter)
    sampled = [logprobs_of(action) for action in packed.actions]
    sampled_A3 = torch.tensor([(*values, 0.0, 0.0)[:3] for values in sampled])
    gap_A3 = (scores.terms_A3.float().cpu() - sampled_A3).abs()
    return gap_A3[scores.is_draw_A3.cpu()].tolist()


def compare_with_alone(report: Report, large: LargeModel, part: Part) -> None:
    """Rollouts of a batch of 64 rows against the same ones by themselves."""
    requests = [
        large.answers(
            large.prefix(row * NUM_PROMPTS // NUM_ROWS),
            of_tokens(),
            num=1,
            adapter=large.adapter,
            seed=row,
        )
        for row in range(NUM_ROWS)
    ]
    together = [traces[0] for traces in grown(large.model, requests)]
    chosen = range(0, NUM_ROWS, NUM_ROWS // NUM_ALONE)
    pairs = [(grown(large.model, [requests[row]])[0][0], together[row]) for row in chosen]
    gaps = [gap for one, other in pairs for gap in common_gaps(one, other)]
    part["num_compared"] = len(pairs)
    part["share_equal"] = sum(drawn(a) == drawn(b) for a, b in pairs) / len(pairs)
    part["logprob_gap_mean"], part["logprob_gap_max"] = statistics.mean(gaps), max(gaps)
    report.line(
        f"alone - among {NUM_ROWS} rows, bfloat16: {100 * part['share_equal']:.0f} % of rollouts "
        f"equal, log-probabilities differ by {part['logprob_gap_max']:.1e} at most"
    )


def common_gaps(one: Trace, other: Trace) -> list[float]:
    """Differences of log-probabilities up to the first draw that differs."""
    gaps: list[float] = []
    for ours, theirs in zip(one.actions, other.actions, strict=False):
        if (ours.token, ours.bins) != (theirs.token, theirs.bins):
            break
        pairs = zip(logprobs_of(ours), logprobs_of(theirs), strict=True)
        gaps += [abs(x - y) for x, y in pairs]
    return gaps or [0.0]
