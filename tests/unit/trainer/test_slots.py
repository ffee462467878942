"""Adapters in slots: leased while in use, then in the host's memory, then on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.engine import AdapterRef
from contract.errors import StateDamaged
from contract.groups import SFTGroup
from contract.skills import QueryTarget
from tests.micro import (
    QUERY,
    adapter_ref,
    loaded_micro,
    micro_model,
    random_adapter,
    train_command,
)
from trainer.adapters import bank as bank_module
from trainer.adapters.bank import TENSOR_BYTES, AdapterBank, version_of
from trainer.counters import Counters
from trainer.engine import TrainerEngine
from trainer.optim import AdamState
from trainer.storage import write_tensors

CONFIG = micro_model(dtype=torch.float32).config.text
CPU = torch.device("cpu")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    found: list[str] = []
    real = bank_module.read_tensors

    def counting(file):
        found.append(Path(file.path).name)
        return real(file)

    monkeypatch.setattr(bank_module, "read_tensors", counting)
    return found


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[int], AdapterRef]:
    def save(number: int) -> AdapterRef:
        adapter = random_adapter(micro_model(dtype=torch.float32), seed=number)
        path = tmp_path / f"{number}"
        weights = write_tensors(path, adapter.tensors, {}) if not path.exists() else None
        assert weights is not None, "each is saved once"
        return adapter_ref(weights=weights, step=number, finetune_id=f"{number:026}")

    return save


def test_a_leased_adapter_keeps_its_slot_and_others_wait(saved, reads):
    bank = AdapterBank(CONFIG, CPU, num_slots=2)
    refs = [saved(number) for number in range(3)]
    first, second = bank.lease(refs[0]), bank.lease(refs[1])
    assert bank.lease(refs[2]) is None
    assert bank.lease(refs[0]) is first  # who has a slot shares it
    bank.release(refs[0])
    assert bank.lease(refs[2]) is None
    bank.release(refs[0])
    third = bank.lease(refs[2])
    assert third is not None
    assert bank.lease(refs[1]) is second
    assert reads == ["0", "1", "2"]


def test_what_left_its_slot_comes_back_from_the_host_without_the_disk(saved, reads):
    counters = Counters()
    bank = AdapterBank(CONFIG, CPU, num_slots=1, counters=counters)
    refs = [saved(number) for number in range(3)]
    leased = []
    for ref in (*refs, *refs):
        leased.append(bank.lease(ref))
        bank.release(ref)
    assert reads == ["0", "1", "2"]
    for one, again in zip(leased[:3], leased[3:], strict=True):
        assert all(torch.equal(one.tensors[n], again.tensors[n]) for n in one.tensors)
    assert counters.value("moontune_cache_evictions_total", "adapters") == 5
    assert counters.value("moontune_cache_hits_total", "adapters_host") == 3


def test_a_host_without_room_leaves_it_to_the_disk(saved, reads):
    bank = AdapterBank(CONFIG, CPU, num_slots=1, host_bytes=0)
    refs = [saved(number) for number in range(2)]
    for ref in (*refs, *refs):
        bank.lease(ref)
        bank.release(ref)
    assert reads == ["0", "1", "0", "1"]


def test_thousands_of_checkpoints_need_no_more_than_the_slots(saved, reads):
    one = saved(0)
    adapter = random_adapter(micro_model(dtype=torch.float32))
    size = adapter.num_bytes + TENSOR_BYTES * len(adapter.tensors)
    bank = AdapterBank(CONFIG, CPU, num_slots=4, host_bytes=10 * size)
    for number in range(2000):
        ref = replace(one, finetune_id=f"{number:026}")
        assert bank.lease(ref) is not None
        bank.release(ref)
    assert len(list(bank._slots)) == 4
    assert len(list(bank._host)) == 10


def test_adapters_are_served_in_the_dtype_of_the_model_and_trained_in_float32(saved):
    bank = AdapterBank(CONFIG, CPU, dtype=torch.bfloat16)
    ref = saved(0)
    served, masters = bank.lease(ref), bank.adapter(ref)
    assert {t.dtype for t in served.tensors.values()} == {torch.bfloat16}
    assert {t.dtype for t in masters.tensors.values()} == {torch.float32}
    for name, tensor in masters.tensors.items():
        assert torch.equal(served.tensors[name], tensor.bfloat16())


def test_where_both_are_float32_there_is_one_copy(saved):
    bank = AdapterBank(CONFIG, CPU)
    ref = saved(0)
    assert bank.adapter(ref) is bank.lease(ref)


def test_a_dropped_finetune_keeps_only_what_is_in_use(saved, reads):
    bank = AdapterBank(CONFIG, CPU)
    ref = saved(0)
    leased = bank.lease(ref)
    bank.drop(ref.finetune_id)
    assert bank.lease(ref) is leased
    bank.release(ref)
    bank.release(ref)
    bank.drop(ref.finetune_id)
    bank.lease(ref)
    assert reads == ["0", "0"]


def test_versions_differ_by_whatever_weights_depend_on(saved):
    fresh = adapter_ref(seed=1)
    weights = saved(0).weights
    assert weights is not None
    distinct = [
        fresh,
        replace(fresh, seed=2),
        replace(fresh, rank=16),
        replace(fresh, weights=weights),
    ]
    assert len(set(map(version_of, distinct))) == 4
    assert version_of(replace(fresh, step=9)) == version_of(fresh)


def test_a_file_is_read_ahead_of_need_and_once(saved, reads):
    bank = AdapterBank(CONFIG, CPU)
    ref, other = saved(0), saved(1)
    for _ in range(2):
        bank.prepare(ref)
        bank.prepare(other)
    bank.prepare(adapter_ref())  # a fresh one has no file
    bank.forget(other)
    leased = bank.lease(ref)
    assert leased is not None
    assert not bank._reading
    bank.prepare(ref)
    assert not bank._reading
    bank._readers.shutdown()
    assert reads == ["0", "1"]


def test_a_file_that_cannot_be_read_ahead_fails_who_asks_and_is_tried_again(saved):
    bank = AdapterBank(CONFIG, CPU)
    ref = saved(0)
    path = Path(ref.weights.path)
    whole = path.read_bytes()
    path.unlink()
    bank.prepare(ref)
    with pytest.raises(StateDamaged):
        bank.lease(ref)
    path.write_bytes(whole)
    assert bank.lease(ref) is not None


def test_what_a_step_made_is_used_by_the_next_one_and_by_answers_without_a_file(saved, reads):
    bank = AdapterBank(CONFIG, CPU)
    ref, optimizer_file = saved(0), saved(1).weights
    assert ref.weights is not None
    assert optimizer_file is not None
    adapter = random_adapter(micro_model(dtype=torch.float32), seed=0)
    optimizer = AdamState.fresh(adapter.tensors)
    bank.keep(ref.finetune_id, ref.weights, adapter, optimizer_file, optimizer)
    assert bank.adapter(ref) is adapter
    assert bank.optimizer(ref, optimizer_file) is optimizer
    assert bank.lease(ref) is not None
    assert not reads


def test_steps_that_follow_one_another_read_no_file(tmp_path, reads):
    engine = TrainerEngine(loaded_micro())
    group = SFTGroup(request=QUERY, targets=(QueryTarget(answer="red"),))
    command = train_command([group])
    for number in range(3):
        trained = engine.train_step(
            replace(
                command,
                weights_path=str(tmp_path / f"{number}.w"),
                optimizer_path=str(tmp_path / f"{number}.o"),
            ),
            (),
        )
        command = replace(
            command,
            adapter=replace(command.adapter, weights=trained.weights, step=number + 1),
            optimizer=trained.optimizer,
        )
    assert not reads
