"""Sampling against the naive twin, draw by draw, and its independence of everything around it."""

from __future__ import annotations

import pytest
import torch

from contract.skills import FinishReason, QueryRequest
from tests.micro import (
    DETECT,
    POINT,
    QUERY,
    QUERY_WITH_IMAGE,
    REASONING,
    REQUESTS,
    features_of,
    micro_model,
    random_adapter,
    sample_answers,
)
from tests.reference.trainer.naive import Naive, naive_sample
from trainer.drawing import Heat, choose
from trainer.sequence import Trace

TOLERANCE = 1e-10  # float64 throughout; the twin adds in another order
FAMILIES = ("moondream3", "moondream2")
SETTINGS = {
    "plain": (1.0, 1.0),
    "hot": (1.7, 1.0),
    "top-p": (1.0, 0.6),
    "cold-top-p": (0.6, 0.9),
    "greedy": (0.0, 1.0),
}
NUM_TOKENS = 9
NUM_OBJECTS = 2


def cap_of(request) -> int:
    return {"point": 2 * NUM_OBJECTS, "detect": 3 * NUM_OBJECTS}.get(request.skill, NUM_TOKENS)


def draws(trace: Trace) -> list[tuple[int, tuple[int, ...]]]:
    return [(action.token, action.bins) for action in trace.actions]


def terms(trace: Trace) -> list[list[float]]:
    """What a trace recorded of its draws; a forced token recorded exactly 0."""
    recorded: list[list[float]] = []
    for action in trace.actions:
        assert action.bin_logprobs is not None
        if action.mask.is_forced:
            assert action.token_logprob == 0.0
        token = [] if action.mask.is_forced else [action.token_logprob]
        recorded.append([*token, *action.bin_logprobs])
    return recorded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", REQUESTS)
@torch.no_grad()
def test_every_draw_and_logprob_equals_the_naive_twin(family, settings, name):
    temperature, top_p = SETTINGS[settings]
    model, request = micro_model(family), REQUESTS[name]
    adapter = random_adapter(model)
    sampled = sample_answers(
        model, request, adapter=adapter, num_rollouts=2, seed=2**63 + 5,
        temperature=temperature, top_p=top_p, max_tokens=NUM_TOKENS, max_objects=NUM_OBJECTS,
    )  # fmt: skip
    twin = Naive(model, adapter.tensors, features_of(model))
    for index, trace in enumerate(sampled.traces):
        expected = naive_sample(
            twin, request, seed=2**63 + 5, rollout=index, num_actions=cap_of(request),
            temperature=temperature, top_p=top_p,
        )  # fmt: skip
        assert draws(trace) == expected.draws
        assert trace.finish_reason == expected.finish_reason
        for mine, theirs in zip(terms(trace), expected.terms, strict=True):
            assert mine == pytest.approx(theirs, abs=TOLERANCE)
    num_image = 0 if request.image is None else model.config.vision.num_image_tokens
    assert sampled.num_prompt_tokens == 1 + num_image + len(twin.prompt(request))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_rollout_does_not_depend_on_how_many_are_made(name):
    model, request = micro_model(), REQUESTS[name]
    many = sample_answers(model, request, num_rollouts=9).traces
    for count in (1, 2, 5):
        few = sample_answers(model, request, num_rollouts=count).traces
        for alone, together in zip(few, many, strict=False):
            assert draws(alone) == draws(together)
            for mine, theirs in zip(terms(alone), terms(together), strict=True):
                assert mine == pytest.approx(theirs, abs=TOLERANCE)


def test_rollouts_of_a_call_differ():
    assert len({str(draws(t)) for t in sample_answers(micro_model(), QUERY).traces}) > 1


def test_another_seed_gives_other_rollouts():
    model = micro_model()
    first = [draws(t) for t in sample_answers(model, QUERY, seed=1).traces]
    assert first == [draws(t) for t in sample_answers(model, QUERY, seed=1).traces]
    assert first != [draws(t) for t in sample_answers(model, QUERY, seed=2).traces]


@pytest.mark.parametrize("temperature", [0.0, 9e-5])
@pytest.mark.parametrize("name", REQUESTS)
def test_greedy_rollouts_are_one_computed_once(name, temperature, monkeypatch):
    model = micro_model()
    rows: list[int] = []
    forward = type(model.text).forward

    def counted(self, embeds_BTD, **arguments):
        rows.append(len(embeds_BTD))
        return forward(self, embeds_BTD, **arguments)

    monkeypatch.setattr(type(model.text), "forward", counted)
    traces = sample_answers(model, REQUESTS[name], num_rollouts=5, temperature=temperature).traces
    assert len(traces) == 5
    assert all(trace is traces[0] for trace in traces)
    assert set(rows) == {1}


def test_an_answer_at_its_limit_ends_for_length_with_nothing_half_drawn():
    model = micro_model()
    for request, length in ((POINT, 2), (DETECT, 3)):
        for count in (1, 2):
            traces = sample_answers(model, request, num_rollouts=16, max_objects=count).traces
            ended = [t for t in traces if t.finish_reason is FinishReason.LENGTH]
            assert ended
            assert {len(t.actions) for t in ended} == {length * count}
            assert all(t.actions[-1].token != 0 for t in ended)
            stopped = [t for t in traces if t.finish_reason is FinishReason.STOP]
            assert stopped
            assert all((len(t.actions) - 1) % length == 0 for t in stopped)
            assert all(t.actions[-1].token == 0 for t in stopped)


def test_a_text_has_at_most_max_tokens_thought_and_answer_together():
    for trace in sample_answers(micro_model(), REASONING, num_rollouts=16, max_tokens=5).traces:
        assert len(trace.actions) <= 5
        is_stopped = trace.actions[-1].token == 0
        assert trace.finish_reason == ("stop" if is_stopped else "length")
        assert is_stopped or len(trace.actions) == 5


@pytest.mark.parametrize(
    "request_", [QUERY, QUERY_WITH_IMAGE, DETECT, POINT], ids=lambda r: r.skill
)
@pytest.mark.parametrize("room", [4, 7])
def test_the_end_of_the_context_ends_an_answer(request_, room):
    # a context that leaves `room` positions behind the prompt
    num_prompt = sample_answers(micro_model(), request_, num_rollouts=1).num_prompt_tokens
    model = micro_model(max_context=num_prompt + room)
    traces = sample_answers(model, request_, num_rollouts=16, max_tokens=99, max_objects=99).traces
    unit = {"point": 2, "detect": 3}.get(request_.skill, 1)
    ended = {len(t.actions) for t in traces if t.finish_reason is FinishReason.LENGTH}
    assert ended == {room // unit * unit}


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="positions"):
        sample_answers(micro_model(max_context=20), QueryRequest(question="why " * 40))


def test_the_adapter_is_applied_to_prompt_and_answer():
    model = micro_model()
    base = sample_answers(model, QUERY_WITH_IMAGE, temperature=0.0).traces[0]
    adapted = sample_answers(
        model, QUERY_WITH_IMAGE, temperature=0.0, adapter=random_adapter(model, scale=0.3)
    ).traces[0]
    assert terms(base) != terms(adapted)


@pytest.mark.parametrize(
    ("uniform", "top_p", "expected"),
    [
        (0.05, 1.0, 0),  # 0.1 | 0.4 | 0.3 | 0.2
        (0.15, 1.0, 1),
        (0.55, 1.0, 2),
        (0.999999, 1.0, 3),
        (0.1, 0.39, 1),  # the sum before the largest is 0, before the next 0.4 > 0.39
        (0.999999, 0.39, 1),
        (0.5, 0.41, 1),  # 0.4 and 0.3 stay: 4 / 7 lies above 0.5
        (0.6, 0.41, 2),
        (0.05, 0.95, 0),  # before the last 0.9 <= 0.95: all stay
        (0.05, 0.85, 1),  # the last is gone
    ],
)
def test_choose_inverts_the_cumulative_distribution(uniform, top_p, expected):
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]], dtype=torch.float64).log()
    at = torch.tensor([uniform], dtype=torch.float64)
    assert choose(logits, at, [Heat(temperature=1.0, top_p=top_p)] * len(logits)).item() == expected


def test_choose_never_takes_what_is_forbidden():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, -1)
    ends = torch.tensor([0.5 / 2**32, 0.5, 1 - 0.5 / 2**32], dtype=torch.float64)
    for top_p in (1.0, 0.3):
        assert set(
            choose(logits, ends, [Heat(temperature=1.0, top_p=top_p)] * len(logits)).tolist()
        ) <= {1, 2}


def test_temperature_sharpens_before_top_p_cuts():
    # 0.6 | 0.4 at T = 0.25 is 0.835 | 0.165: at top_p 0.7 only the first stays
    logits = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log()
    last = torch.tensor([0.99], dtype=torch.float64)
    assert choose(logits, last, [Heat(temperature=0.25, top_p=0.7)] * len(logits)).item() == 0
    assert choose(logits, last, [Heat(temperature=1.0, top_p=0.7)] * len(logits)).item() == 1
