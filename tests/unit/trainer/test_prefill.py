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
from trainer import engine as engine_module
from trainer.engine import TrainerEngine
from trainer.model.kv_cache import KVCache
from trainer.prefill import Prefix, PrefixStore
from trainer.storage import write_tensors

WARM = Settings(temperature=1.0, max_tokens=8, max_objects=3)


@pytest.fixture
def engine() -> TrainerEngine:
    return TrainerEngine(loaded_micro())


@pytest.fixture
def prefills(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every prompt that is really run through the model."""
    done: list[object] = []
    real = engine_module.prefill

    def counting(model, adapter, row, features):
        done.append(row)
        return real(model, adapter, row, features)

    monkeypatch.setattr(engine_module, "prefill", counting)
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
    monkeypatch.setattr(engine, "_features", None)
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
    (prefix,) = engine._prefixes._kept.values()
    before = prefix.cache.keys_LBHSd.clone(), prefix.last_hidden_D.clone()
    make(engine, num_rollouts=7, seed=3)
    assert torch.equal(prefix.cache.keys_LBHSd, before[0])
    assert torch.equal(prefix.last_hidden_D, before[1])


def prefix_of(num_slots: int) -> Prefix:
    cache = KVCache(*(torch.zeros(1, 1, 1, num_slots, 1) for _ in range(2)), length=num_slots)
    return Prefix(cache=cache, last_hidden_D=torch.zeros(1))


def test_the_store_keeps_to_its_budget_and_to_what_was_used_last():
    store = PrefixStore(budget_bytes=3 * 8)  # three slots of keys and values
    for name in "abc":
        store.put(name, prefix_of(1))
    assert store.get("a") is not None
    store.put("d", prefix_of(1))
    assert [name for name in "abcd" if store.get(name) is not None] == ["a", "c", "d"]
    store.put("a", prefix_of(2))  # replaces, and pushes the oldest out
    assert [name for name in "abcd" if store.get(name) is not None] == ["a", "d"]
    store.put("huge", prefix_of(9))
    assert [name for name in ("a", "d", "huge") if store.get(name) is not None] == ["a", "d"]


def test_what_is_kept_is_given_up_when_memory_is_short(engine, prefills):
    make(engine)
    engine.release_memory()
    make(engine)
    assert len(prefills) == 2
