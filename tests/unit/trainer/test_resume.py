"""A redo gives the same bits: nothing that memory kept differs from what the files say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.engine import AdapterRef, StepTrained
from contract.groups import SFTGroup
from contract.skills import QueryTarget
from tests.micro import (
    QUERY,
    QUERY_WITH_IMAGE,
    adapter_ref,
    loaded_micro,
    pictures,
    rl_group,
    train_command,
)
from tests.unit.trainer.engines import AMPLE, rollouts
from trainer.engine import TrainerEngine
from trainer.storage import read_tensors

NUM_STEPS = 4


def fresh_engine(family: str, **options) -> TrainerEngine:
    return TrainerEngine(loaded_micro(family), budgets=AMPLE, **options)


def trained(
    engine: TrainerEngine,
    folder: Path,
    number: int,
    before: StepTrained | None,
    *,
    sampler: TrainerEngine | None = None,
) -> StepTrained:
    """One step of rollouts and a target, from the state that another step left.

    Args:
        sampler: Who makes the rollouts, whose log-probabilities depend on their company.
    """
    folder.mkdir(exist_ok=True)
    weights = before and before.weights
    ref = adapter_ref(step=number, weights=weights)
    made = (sampler or engine).make_rollouts(
        rollouts(QUERY_WITH_IMAGE, adapter=ref, seed=number), pictures()
    )
    groups = [
        rl_group(QUERY_WITH_IMAGE, list(made.rollouts), [0.0, 1.0, 0.5]),
        SFTGroup(request=QUERY, targets=(QueryTarget(answer="two circles"),)),
    ]
    command = replace(
        train_command(groups, lr=1e-2),
        adapter=ref,
        optimizer=before and before.optimizer,
        weights_path=str(folder / f"{number}.weights"),
        optimizer_path=str(folder / f"{number}.optimizer"),
    )
    return engine.train_step(command, pictures())


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
def test_a_step_from_files_is_the_step_from_memory_bit_for_bit(tmp_path, family):
    stayed = fresh_engine(family)
    warm = cold = None
    for number in range(NUM_STEPS):
        warm = trained(stayed, tmp_path / "warm", number, warm)
        cold = trained(fresh_engine(family), tmp_path / "cold", number, cold)
        assert warm.applied
        assert warm.grad_norm == cold.grad_norm
        for ours, theirs in ((warm.weights, cold.weights), (warm.optimizer, cold.optimizer)):
            assert ours is not None
            assert theirs is not None
            assert ours.digest == theirs.digest


def test_a_step_beside_others_is_the_step_alone_bit_for_bit(tmp_path):
    """Other finetunes push its adapters out of memory, and share ticks and features with it."""
    alone = busy = None
    quiet, shared = fresh_engine("moondream3"), fresh_engine("moondream3")
    for number in range(NUM_STEPS):
        alone = trained(quiet, tmp_path / "alone", number, alone)
        others = [
            shared.begin(
                "make_rollouts",
                rollouts(adapter=adapter_ref(finetune_id=f"{n:026}"), seed=n),
                pictures(),
            )
            for n in range(9)
        ]
        busy = trained(shared, tmp_path / "busy", number, busy, sampler=quiet)
        while not all(other.done() for other in others):
            shared.turn()
        assert busy.weights is not None
        assert alone.weights is not None
        assert busy.weights.digest == alone.weights.digest


def test_what_memory_keeps_is_what_the_file_says(tmp_path):
    engine = fresh_engine("moondream3")
    step = trained(engine, tmp_path / "one", 0, None)
    assert step.weights is not None
    ref: AdapterRef = adapter_ref(step=1, weights=step.weights)
    kept = engine._bank.adapter(ref).tensors
    read = read_tensors(step.weights)
    assert all(torch.equal(kept[name], read[name]) for name in kept)
    moments = engine._bank.optimizer(ref, step.optimizer).to_tensors()
    assert step.optimizer is not None
    stored = read_tensors(step.optimizer)
    assert all(torch.equal(moments[name], stored[name]) for name in stored)
