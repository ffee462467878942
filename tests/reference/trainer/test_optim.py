"""AdamW against torch, the ratio of expert rates, and a state that comes back from its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.micro import micro_model, random_adapter
from trainer.optim import AdamState, adamw_update, global_norm
from trainer.storage import read_tensors, write_tensors

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
LR, MAX_NORM = 3e-3, 1.0


def gradients_at(step: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Large at even steps, so that they are clipped, and small at odd ones."""
    generator = torch.Generator().manual_seed(step)
    scale = 1.0 if step % 2 == 0 else 1e-3
    return {
        name: scale * torch.randn(t.shape, generator=generator).to(t) for name, t in tensors.items()
    }


def update(tensors, gradients, state, **changed):
    arguments = {
        "lr": LR,
        "max_grad_norm": MAX_NORM,
        "grad_norm": global_norm(gradients),
        **changed,
    }
    return adamw_update(tensors, gradients, state, **arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_five_steps_equal_those_of_torch(dtype):
    tensors = random_adapter(micro_model(dtype=dtype)).tensors
    state = AdamState.fresh(tensors)
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    optimizer = torch.optim.AdamW(
        list(theirs.values()), lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    for step in range(5):
        gradients = gradients_at(step, tensors)
        tensors, state = update(tensors, gradients, state)
        for name, leaf in theirs.items():
            leaf.grad = gradients[name].clone()
        norm = torch.nn.utils.get_total_norm(list(gradients.values()))
        assert global_norm(gradients) == pytest.approx(float(norm), rel=1e-6)
        for leaf in theirs.values():
            assert leaf.grad is not None
            leaf.grad *= min(1.0, MAX_NORM / global_norm(gradients))
        optimizer.step()
        for name, tensor in tensors.items():
            worst = float((tensor - theirs[name].detach()).abs().max())
            assert worst <= TOLERANCE[dtype], name
    assert state.num_updates == 5


def test_a_gradient_within_the_limit_is_not_scaled():
    tensors = {"a": torch.zeros(2, dtype=torch.float64)}
    gradients = {"a": torch.tensor([0.3, 0.4], dtype=torch.float64)}  # norm 0.5
    _, state = update(tensors, gradients, AdamState.fresh(tensors))
    assert state.mean["a"].tolist() == pytest.approx([0.03, 0.04])
    _, state = update(tensors, gradients, AdamState.fresh(tensors), max_grad_norm=0.25)
    assert state.mean["a"].tolist() == pytest.approx([0.015, 0.02])


def test_the_expert_ratio_scales_the_steps_of_expert_factors_alone():
    tensors = random_adapter(micro_model()).tensors
    gradients = gradients_at(0, tensors)
    fresh = AdamState.fresh(tensors)
    plain, _ = update(tensors, gradients, fresh)
    scaled, state = update(tensors, gradients, fresh, expert_lr_ratio=0.25)
    for name, tensor in tensors.items():
        ratio = 0.25 if ".moe." in name else 1.0
        moved = ratio * (plain[name] - tensor)
        assert torch.allclose(scaled[name] - tensor, moved, rtol=1e-9, atol=1e-15)
    assert state.num_updates == 1


def test_a_gradient_of_zero_moves_nothing():
    tensors = random_adapter(micro_model()).tensors
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    updated, _ = update(tensors, zeros, AdamState.fresh(tensors))
    assert all(torch.equal(updated[name], tensor) for name, tensor in tensors.items())


def test_nothing_is_changed_in_place():
    tensors = random_adapter(micro_model()).tensors
    gradients, state = gradients_at(0, tensors), AdamState.fresh(tensors)
    kept = [
        {name: tensor.clone() for name, tensor in part.items()}
        for part in (tensors, gradients, state.mean, state.square)
    ]
    update(tensors, gradients, state)
    for part, before in zip((tensors, gradients, state.mean, state.square), kept, strict=True):
        assert all(torch.equal(part[name], before[name]) for name in before)
    assert state.num_updates == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_norm_of_what_is_not_finite_is_not_finite(bad):
    assert not math.isfinite(global_norm({"a": torch.tensor([1.0, bad])}))


def test_the_norm_of_large_float32_values_does_not_overflow():
    assert global_norm({"a": torch.full((4,), 1e30)}) == pytest.approx(2e30, rel=1e-6)


def test_a_state_from_its_file_steps_bit_for_bit_like_the_one_in_memory(tmp_path: Path):
    tensors = random_adapter(micro_model(dtype=torch.float32)).tensors
    state = AdamState.fresh(tensors)
    for step in range(2):
        tensors, state = update(tensors, gradients_at(step, tensors), state)
    weights = write_tensors(tmp_path / "w", tensors, {})
    moments = write_tensors(tmp_path / "o", state.to_tensors(), {})
    again = read_tensors(weights)
    assert set(again) == set(tensors)
    read = AdamState.from_tensors(read_tensors(moments))
    assert read.num_updates == 2
    gradients = gradients_at(2, tensors)
    mine, my_state = update(tensors, gradients, state)
    theirs, their_state = update(again, gradients, read)
    for name in tensors:
        assert torch.equal(mine[name], theirs[name])
        assert torch.equal(my_state.mean[name], their_state.mean[name])
        assert torch.equal(my_state.square[name], their_state.square[name])
