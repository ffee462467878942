"""Numbers that are not finite, and memory that does not suffice: a step says where, or splits."""

from __future__ import annotations

import gc
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract import faults
from contract.errors import RequestRefused
from contract.groups import SFTGroup
from contract.skills import QueryTarget
from tests.micro import QUERY, loaded_micro, pictures, train_command
from tests.unit.trainer.engines import AMPLE, answer, ask
from trainer.engine import TrainerEngine
from trainer.storage import read_tensors
from trainer.too_large import asked_bytes

SPLIT_TOLERANCE = 1e-5
"""Float32: the same sums in another order."""

POINTS = ["train.begin", "train.plan", "train.forward", "train.backward", "train.update"]


@pytest.fixture(autouse=True)
def nothing_armed():
    yield
    faults.arm("")


def engine_of(**options) -> TrainerEngine:
    return TrainerEngine(loaded_micro(), budgets=AMPLE, **options)


def step(folder: Path, name: str = "step"):
    groups = [
        SFTGroup(request=QUERY, targets=(QueryTarget(answer=words),))
        for words in ("two circles", "a red one", "none", "one")
    ]
    return replace(
        train_command(groups, lr=1e-2),
        weights_path=str(folder / f"{name}.weights"),
        optimizer_path=str(folder / f"{name}.optimizer"),
    )


def test_a_loss_that_is_no_number_names_its_groups(tmp_path):
    faults.arm("train.loss=nan@1")
    trained = engine_of().train_step(step(tmp_path), pictures())
    assert (trained.applied, trained.skip_reason) == (False, "non_finite")
    assert trained.non_finite is not None
    assert trained.non_finite.groups == (0, 1, 2, 3)
    assert list(tmp_path.iterdir()) == []


def test_of_packs_only_the_spoiled_one_is_named(tmp_path):
    faults.arm("train.loss=nan@2")  # one group a pack
    trained = engine_of(micro_batch_tokens=1).train_step(step(tmp_path), pictures())
    assert trained.non_finite is not None
    assert len(trained.non_finite.groups) == 1


def test_a_gradient_that_is_no_number_names_its_tensor(tmp_path):
    faults.arm("train.gradient=nan@1")
    trained = engine_of().train_step(step(tmp_path), pictures())
    assert (trained.applied, trained.skip_reason, trained.grad_norm) == (False, "non_finite", None)
    assert trained.non_finite is not None
    assert trained.non_finite.groups == ()
    assert trained.non_finite.tensors == ("text_lora.dense.0.up_a",)
    assert list(tmp_path.iterdir()) == []


def test_a_step_after_one_that_was_not_finite_is_as_if_that_had_not_been(tmp_path):
    expected = engine_of().train_step(step(tmp_path, "expected"), pictures())
    engine = engine_of()
    faults.arm("train.gradient=nan@1")
    engine.train_step(step(tmp_path, "bad"), pictures())
    good = engine.train_step(step(tmp_path, "good"), pictures())
    assert good.weights is not None
    assert expected.weights is not None
    assert good.weights.digest == expected.weights.digest


@pytest.mark.parametrize("point", POINTS)
def test_a_step_that_runs_out_of_memory_anywhere_gives_the_result_of_one_that_does_not(
    tmp_path, point
):
    expected = engine_of().train_step(step(tmp_path, "expected"), pictures())
    faults.arm(f"{point}=oom@1")
    engine = engine_of(micro_batch_tokens=32)  # holds all four; half of it does not
    trained = engine.train_step(step(tmp_path, "split"), pictures())
    assert trained.applied
    assert trained.extra["positions_computed"] > expected.extra["positions_computed"]
    assert trained.grad_norm == pytest.approx(expected.grad_norm, rel=SPLIT_TOLERANCE)
    assert trained.weights is not None
    assert expected.weights is not None
    ours, theirs = read_tensors(trained.weights), read_tensors(expected.weights)
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=SPLIT_TOLERANCE)


def test_packs_are_halved_until_one_example_is_left_and_no_further(tmp_path, monkeypatch):
    engine = engine_of()
    tried: list[int] = []

    def visit(name: str) -> None:
        if name == "train.forward":
            tried.append(1)
            raise MemoryError("no")

    monkeypatch.setattr(faults, "point", visit)
    with pytest.raises(RequestRefused, match="not even one example at a time") as refused:
        engine.train_step(step(tmp_path), pictures())
    assert refused.value.code == "batch_too_large"
    # 2048 positions hold all four; halved until one of some twenty positions is alone in a pack.
    assert 3 < len(tried) < 2 + math.log2(2048)


def test_memory_is_given_back_after_a_step_that_did_not_fit(tmp_path, monkeypatch):
    engine = engine_of()
    ask(engine, answer(QUERY))

    def held() -> int:
        gc.collect()
        return sum(t.nbytes for t in gc.get_objects() if issubclass(type(t), torch.Tensor))

    engine.train_step(step(tmp_path, "warm"), pictures())
    before = held()
    real = faults.point

    def visit(name: str) -> None:
        if name == "train.backward":
            raise MemoryError("no")
        real(name)

    with monkeypatch.context() as patched:
        patched.setattr(faults, "point", visit)
        with pytest.raises(RequestRefused):
            engine.train_step(step(tmp_path, "bad"), pictures())
    assert held() <= 1.05 * before


@pytest.mark.parametrize(
    ("message", "num_bytes"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", 2 << 30),
        ("Tried to allocate 20.50 MiB", 41 << 19),
        ("fault point train.forward", None),
    ],
)
def test_what_torch_asked_for_is_read_from_its_words(message, num_bytes):
    assert asked_bytes(message) == num_bytes
