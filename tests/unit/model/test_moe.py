"""Groups multiplied in one call are what they are one by one, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from trainer.model.config import MoeConfig
from trainer.model.grouped import Groups, grouped_linear
from trainer.model.moe import MoeMlp

FLOAT32_RELATIVE = 1e-6
TRAINING_RELATIVE = 4e-6
"""Through router, experts and adapter, of the largest number: the order of sums is the processor's,
and 1.3e-6 was seen on one kind."""
GROUP_OF_ROW = (1, 1, 1, 2, 3, 3, 3, 3)
EXPERTS, ACTIVE, DIM, INNER = 6, 2, 16, 12


def groups() -> Groups:
    """Five, of which the first and the last are empty."""
    return Groups.of(torch.tensor(GROUP_OF_ROW), 5)


def assert_close(found: Tensor, wanted: Tensor, within: float = FLOAT32_RELATIVE) -> None:
    difference = (found.detach().double() - wanted.detach()).abs().max()
    assert float(difference / wanted.detach().abs().max()) < within


def test_groups_are_told_by_their_ends():
    found = groups()
    assert found.ends_G.tolist() == [0, 3, 4, 8, 8]
    assert found.ends_G.dtype == torch.int32
    assert found.sizes == [0, 3, 1, 4, 0]


def test_one_call_equals_one_by_one_in_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 8, generator=generator, requires_grad=True)
    matrices = torch.randn(5, 12, 8, generator=generator, requires_grad=True)
    weight = torch.randn(12, 8, generator=generator).t()  # a gradient that is not contiguous
    at_once = grouped_linear(x, matrices, groups())
    one_by_one = grouped_linear(x.double(), matrices.double(), groups())
    assert torch.equal(at_once, grouped_linear(x, list(matrices), groups()))
    assert_close(at_once, one_by_one)
    found = torch.autograd.grad((at_once * weight).sum(), [x, matrices])
    wanted = torch.autograd.grad((one_by_one * weight).sum(), [x, matrices])
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other)
    assert not found[1][[0, 4]].any()
    assert found[1][1].any()


@pytest.mark.parametrize(
    ("num_columns", "offset", "dtype"),
    [(6, 0, torch.float32), (8, 1, torch.float32), (8, 0, torch.float64)],
    ids=["stride", "start", "float64"],
)
def test_what_one_call_does_not_take_is_multiplied_one_by_one(num_columns, offset, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, num_columns, generator=generator, dtype=dtype)
    numbers = torch.randn(5 * 12 * num_columns + offset, generator=generator, dtype=dtype)
    matrices = numbers[offset:].view(5, 12, num_columns)
    found = groups()
    wanted = torch.stack([matrices[g] @ row for g, row in zip(GROUP_OF_ROW, x, strict=True)])
    assert_close(grouped_linear(x, matrices, found), wanted.double())
    assert "sizes" in vars(found)  # the host had to ask


def experts_and_factors(rank: int) -> tuple[MoeMlp, SimpleNamespace]:
    generator = torch.Generator().manual_seed(rank)
    mlp = MoeMlp(
        DIM,
        MoeConfig(
            num_experts=EXPERTS, start_layer=0, experts_per_token=ACTIVE, expert_inner_dim=INNER
        ),
    )
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    shapes = {
        "up_a": (EXPERTS, rank, DIM), "up_b": (EXPERTS, 2 * INNER, rank),
        "down_a": (EXPERTS, rank, INNER), "down_b": (EXPERTS, DIM, rank),
    }  # fmt: skip
    factors = {
        name: (0.3 * torch.randn(shape, generator=generator)).requires_grad_()
        for name, shape in shapes.items()
    }
    return mlp, SimpleNamespace(**factors, rows=None)


def outcome(mlp: MoeMlp, adapter: SimpleNamespace, x_BTD: Tensor) -> list[Tensor]:
    """The output, and the gradients of the input, the weights and the factors."""
    x_BTD = x_BTD.requires_grad_()
    y, _ = mlp(x_BTD, adapter)
    factors = [factor for factor in vars(adapter).values() if factor is not None]
    return [y, *torch.autograd.grad(y.square().sum(), [x_BTD, *mlp.parameters(), *factors])]


@pytest.mark.parametrize("rank", [1, 3, 4])
@pytest.mark.parametrize("num_tokens", [1, 9])
def test_training_in_float32_is_that_in_float64(num_tokens, rank):
    mlp, adapter = experts_and_factors(rank)
    x = torch.randn(1, num_tokens, DIM, generator=torch.Generator().manual_seed(3))
    found = outcome(mlp, adapter, x)
    wide = {
        n: t.detach().double().requires_grad_() for n, t in vars(adapter).items() if n != "rows"
    }
    wanted = outcome(mlp.double(), SimpleNamespace(**wide, rows=None), x.detach().double())
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, TRAINING_RELATIVE)


def test_training_gives_the_same_bits_every_time():
    mlp, adapter = experts_and_factors(1)
    x = torch.randn(3, 50, DIM, generator=torch.Generator().manual_seed(3))
    first, again = (outcome(mlp, adapter, x.clone()) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
