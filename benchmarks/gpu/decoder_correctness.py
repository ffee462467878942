"""The decoder on the device against the decoder on the CPU, in float32, on the tiny model.

Three adapters and none, three skills, hot and greedy, with top-p and without. On the device rows
are filled up to buckets and requests join while others grow; on the CPU each runs by itself.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu.growing import decoder_for, grown, until_idle
from benchmarks.gpu.places import Place, tasks, tiny_model
from benchmarks.gpu.random_adapter import random_adapter
from benchmarks.gpu.report import Part, Report
from benchmarks.gpu.tiny_results import LONG_ANSWER
from contract.skills import Skill
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.decoder import DecodeRequest
from trainer.image_features import ImageFeatures
from trainer.prefill import prefill
from trainer.sequence import Action, Trace
from trainer.skills import SKILLS

RANKS = (None, 8, 16, 32)
NUM_REQUESTS = 18
ATTEMPTS = (1, 3, 5)
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
TICKS_BETWEEN = 2
HEATS = ({"temperature": 1.0}, {"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9})

MOST_LOGPROB_GAP = 1e-4
"""Of log-probabilities of equal draws, absolute. Draws themselves have to be equal, all of them."""


def check_decoder(report: Report, device: str, part: Part) -> None:
    reference = _one_by_one(("cpu", "float32"))
    got = _together((device, "float32"))
    pairs = [
        pair
        for ours, theirs in zip(got, reference, strict=True)
        for pair in zip(ours, theirs, strict=True)
    ]
    equal = [(a, b) for a, b in pairs if drawn(a) == drawn(b)]
    part["num_answers"] = len(pairs)
    part["share_equal"] = len(equal) / len(pairs)
    part["logprob_gap_max"] = max(
        (
            abs(x - y)
            for ours, theirs in equal
            for one, other in zip(ours.actions, theirs.actions, strict=True)
            for x, y in zip(logprobs_of(one), logprobs_of(other), strict=True)
        ),
        default=0.0,
    )
    name = f"decoder, {device} - cpu float32"
    report.check(f"{name}: equal answers", part["share_equal"], bound=1.0, is_floor=True)
    report.check(f"{name}: log-probabilities", part["logprob_gap_max"], bound=MOST_LOGPROB_GAP)


def drawn(trace: Trace) -> tuple[object, ...]:
    """Everything but the log-probabilities."""
    return trace.finish_reason, *((action.token, action.bins) for action in trace.actions)


def logprobs_of(action: Action) -> tuple[float, ...]:
    """Of the token and of its bins, as the sampler saw them."""
    assert action.token_logprob is not None, "it was sampled"
    assert action.bin_logprobs is not None, "it was sampled"
    return action.token_logprob, *action.bin_logprobs


def _one_by_one(place: Place) -> list[tuple[Trace, ...]]:
    model = tiny_model(place).model
    return [grown(model, [request])[0] for request in _requests(place)]


def _together(place: Place) -> list[tuple[Trace, ...]]:
    requests = _requests(place)
    decoder = decoder_for(tiny_model(place).model, requests, row_buckets=BUCKETS)
    tickets, ended = [], {}
    for request in requests:
        tickets.append(decoder.add(request))
        for _ in range(TICKS_BETWEEN):
            ended |= decoder.tick()
    ended |= until_idle(decoder)
    return [ended[ticket] for ticket in tickets]


def _requests(place: Place) -> list[DecodeRequest]:
    """Neighbours differ in everything; the CPU draws the factors of all places."""
    loaded = tiny_model(place)
    config = loaded.model.config.text
    adapters: list[Adapter | None] = [
        None if rank is None else random_adapter(config, rank, seed=rank).to(place[0])
        for rank in RANKS
    ]
    requests = []
    for number, (image, asked, _) in enumerate(tasks()[:NUM_REQUESTS]):
        skill, adapter = SKILLS[Skill(asked.skill)], adapters[number % len(adapters)]
        row = Row(image=image.digest, prompt=tuple(skill.prompt(asked, loaded.language)))
        features = ImageFeatures(loaded.model).of([image])
        requests.append(
            DecodeRequest(
                prefix=prefill(loaded.model, adapter, row, features),
                adapter=adapter,
                new_grammar=lambda skill=skill, asked=asked: skill.grammar(asked, loaded.language),
                settings=replace(LONG_ANSWER, **HEATS[number // 3 % len(HEATS)]),
                num_rollouts=ATTEMPTS[number // 2 % len(ATTEMPTS)],
                seed=number,
            )
        )
    return requests
