"""Prefixes are computed once per version of the weights, and never used under another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from contract.engine import Answer, MakeRollouts
from contract.skills import Settings
from tests.micro import (
    DETECT,
    QUERY,
    QUERY_WITH_IMAGE,
    REQUESTS,
    adapter_ref,
    loaded_micro,
    micro_model,
    pictures,
    random_adapter,
)
from trainer import sampler as sampler_module
from trainer.engine import TrainerEngine
from trainer.storage import write_tensors

WARM = Settings(temperature=1.0, max_tokens=8, max_objects=3)


@pytest.fixture
def engine() -> TrainerEngine:
    return TrainerEngine(loaded_micro())


@pytest.fixture
def prefills(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every prompt that is really run through the model."""
    done: list[object] = []
    real = sampler_module.prefill_together

    def counting(model, adapters, rows, features):
        done.extend(rows)
        return real(model, adapters, rows, features)

    monkeypatch.setattr(sampler_module, "prefill_together", counting)
    return done


def make(engine: TrainerEngine, request=QUERY_WITH_IMAGE, **changed):
    arguments = {
        "adapter": adapter_ref(),
        "request": request,
        "settings": WARM,
        "num_rollouts": 3,
        "seed": 17,
    }
    return engine.make_rollouts(MakeRollouts(**{**arguments, **changed}), pictures())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_second_call_gives_what_the_first_gave_without_a_prefill(engine, prefills, name):
    first, second = (make(engine, REQUESTS[name]).rollouts for _ in range(2))
    assert first == second
    assert len(prefills) == 1


def test_a_call_that_finds_its_prefix_encodes_no_picture(engine, monkeypatch):
    make(engine)
    monkeypatch.setattr(engine._sampler, "_features", None)
    make(engine, seed=18)


def test_whatever_a_prefix_depends_on_tells_it_apart(engine, prefills, tmp_path):
    fresh = adapter_ref()
    weights = write_tensors(tmp_path / "w.safetensors", random_adapter(micro_model()).tensors, {})
    trained = replace(fresh, weights=weights)
    for changed in (
        {"adapter": fresh},
        {"adapter": replace(fresh, seed=fresh.seed + 1)},
        {"adapter": trained},
        {"request": replace(QUERY_WITH_IMAGE, question="what is blue?")},
        {"request": replace(QUERY_WITH_IMAGE, image=1)},
        {"request": replace(QUERY_WITH_IMAGE, spatial_refs=((0.25, 0.5),))},
        {"request": replace(QUERY_WITH_IMAGE, spatial_refs=((0.25, 0.6),))},
        {"request": QUERY},
        {"request": DETECT},
    ):
        make(engine, **changed)
    engine.answer(Answer(adapter=None, request=QUERY_WITH_IMAGE, settings=WARM, seed=1), pictures())
    assert len(prefills) == 10
    make(engine, adapter=replace(trained, step=9))  # a step that changed nothing has these weights
    assert len(prefills) == 10


def test_rollouts_leave_the_prefix_as_it_was(engine):
    make(engine)
    (prefix,) = engine._sampler._prefixes._kept.values()
    before = prefix.cache.keys_LBHSd.clone(), prefix.last_hidden_D.clone()
    make(engine, num_rollouts=7, seed=3)
    assert torch.equal(prefix.cache.keys_LBHSd, before[0])
    assert torch.equal(prefix.last_hidden_D, before[1])


def test_what_is_kept_is_given_up_when_memory_is_short(engine, prefills):
    make(engine)
    engine.release_memory()
    make(engine)
    assert len(prefills) == 2
