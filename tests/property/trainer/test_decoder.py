"""A request's answers are the same alone and with any batch-mates, whenever it joins."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.skills import Settings, Skill
from tests.micro import (
    REQUESTS,
    features_of,
    language_of,
    micro_model,
    pictures,
    random_adapter,
)
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.decoder import Decoder, DecodeRequest
from trainer.model.kv_blocks import BlockPool
from trainer.prefill import Prefix, prefill
from trainer.sampling import sample
from trainer.sequence import Trace
from trainer.skills import SKILLS

TOLERANCE = 1e-9  # float64; of log-probabilities
FAMILIES = ("moondream3", "moondream2")
RANKS = (None, 8, 16, 24)


@cache
def adapter_of(family: str, rank: int | None) -> Adapter | None:
    if rank is None:
        return None
    if rank == 8:
        return random_adapter(micro_model(family))
    adapter = Adapter.fresh(micro_model(family).config.text, rank, seed=rank)
    for name, tensor in adapter.tensors.items():
        if name.endswith("_b"):
            tensor.copy_(0.2 * tensor.new_ones(()).expand_as(tensor))
    return adapter


@cache
def prefix_of(family: str, rank: int | None, name: str) -> Prefix:
    model, request = micro_model(family), REQUESTS[name]
    digest = None if request.image is None else pictures()[request.image].digest
    prompt = SKILLS[Skill(request.skill)].prompt(request, language_of(model))
    row = Row(image=digest, prompt=prompt)
    return prefill(model, adapter_of(family, rank), row, features_of(model))


@st.composite
def requests(draw: st.DrawFn, family: str) -> DecodeRequest:
    name, rank = draw(st.sampled_from(sorted(REQUESTS))), draw(st.sampled_from(RANKS))
    request, language = REQUESTS[name], language_of(micro_model(family))
    return DecodeRequest(
        prefix=prefix_of(family, rank, name),
        adapter=adapter_of(family, rank),
        new_grammar=lambda: SKILLS[Skill(request.skill)].grammar(request, language),
        settings=Settings(
            temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
            top_p=draw(st.sampled_from([1.0, 0.9])),
            max_tokens=draw(st.integers(1, 9)),
            max_objects=draw(st.integers(1, 3)),
        ),
        num_rollouts=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


def assert_same(one: tuple[Trace, ...], other: tuple[Trace, ...]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.finish_reason == theirs.finish_reason
        assert [(a.token, a.bins) for a in mine.actions] == [
            (a.token, a.bins) for a in theirs.actions
        ]
        assert [a.logprob for a in mine.actions] == pytest.approx(
            [a.logprob for a in theirs.actions], abs=TOLERANCE
        )


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_request_is_the_same_alone_and_in_any_company(data):
    family = data.draw(st.sampled_from(FAMILIES))
    model = micro_model(family)
    arrivals = data.draw(
        st.lists(st.tuples(st.integers(0, 6), requests(family)), min_size=1, max_size=6)
    )
    pool = BlockPool(
        model.config.text, data.draw(st.integers(1, 12)), device="cpu", dtype=torch.float64
    )
    buckets = data.draw(st.sampled_from([(), (1, 2, 4, 8, 16, 32)]))
    decoder = Decoder(model, pool, max_rows=data.draw(st.integers(1, 20)), row_buckets=buckets)
    found: dict[int, tuple[Trace, ...]] = {}
    tickets: dict[int, DecodeRequest] = {}
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    tick = 0
    while waiting or not decoder.is_idle:
        while waiting and waiting[0][0] <= tick:
            request = waiting.pop(0)[1]
            tickets[decoder.add(request)] = request
        found |= decoder.tick()
        tick += 1
    assert set(found) == set(tickets)
    assert (pool.num_used, pool.num_promised) == (0, 0)
    for ticket, request in tickets.items():
        assert_same(found[ticket], sample(model, request))


def test_an_idle_decoder_has_nothing_to_do():
    model = micro_model()
    pool = BlockPool(model.config.text, 1, device="cpu", dtype=torch.float64)
    assert Decoder(model, pool).tick() == {}
