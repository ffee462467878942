"""Rows with different adapters give what each gives alone, and the host waits for no device."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.micro import micro_model, random_adapter
from trainer.adapters.lora import Adapter
from trainer.adapters.stack import AdapterStack
from trainer.model.moondream import Moondream

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}  # of the largest hidden state
SORTED = (8, 8, 16, 16, 24, 24, None, None)
UNSORTED = (24, None, 8, 8, 16, None, 8)


class NoHostReads(TorchFunctionMode):
    """Fails where the host would have to wait for the device to know a value or a shape."""

    refused = (
        "tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__",
        "nonzero", "bincount", "unique", "masked_select",
    )  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        assert name not in self.refused, f"{name} reads from the device"
        if name in ("__getitem__", "__setitem__"):
            indexes = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indexes)
        return func(*args, **(kwargs or {}))


@cache
def adapter_of(rank: int | None, dtype: torch.dtype, family: str = "moondream3") -> Adapter | None:
    if rank is None:
        return None
    return random_adapter(micro_model(family, dtype), seed=rank, rank=rank, scale=0.2)


def hidden(model: Moondream, adapter: Adapter | AdapterStack | None, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return model.text(
            model.text.embed_tokens(tokens_BT),
            positions_BT=torch.arange(tokens_BT.shape[1])[None],
            adapter=adapter,
        )


def tokens(num_rows: int, num_positions: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_positions)
    return torch.randint(20, 200, (num_rows, num_positions), generator=generator)


def stack_of(rows: list[Adapter | None], model: Moondream) -> AdapterStack:
    dtype = model.text.wte.dtype
    return AdapterStack(model.config.text, rows, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("ranks", [SORTED, UNSORTED], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("num_positions", [1, 20])
def test_rows_of_many_ranks_equal_each_adapter_alone(num_positions, ranks, dtype, family):
    model = micro_model(family, dtype)
    rows = [adapter_of(rank, dtype, family) for rank in ranks]
    tokens_BT = tokens(len(rows), num_positions)
    together = hidden(model, stack_of(rows, model), tokens_BT)
    alone = torch.cat([hidden(model, a, tokens_BT[i : i + 1]) for i, a in enumerate(rows)])
    assert float((together - alone).abs().max() / alone.abs().max()) < TOLERANCE[dtype]
    base = hidden(model, None, tokens_BT)
    for i, adapter in enumerate(rows):
        assert torch.allclose(alone[i], base[i], atol=1e-3) == (adapter is None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_fewer_and_reordered_rows_use_the_same_factors(dtype):
    model = micro_model(dtype=dtype)
    rows = [adapter_of(rank, dtype) for rank in SORTED]
    stack = stack_of(rows, model)
    kept = [5, 0, 6]
    tokens_BT = tokens(len(rows), 4)
    fewer = stack.of_rows([rows[i] for i in kept])
    assert fewer is not None
    found = hidden(model, fewer, tokens_BT[kept])
    wanted = hidden(model, stack, tokens_BT)[kept]
    assert float((found - wanted).abs().max() / wanted.abs().max()) < TOLERANCE[dtype]
    assert fewer.layer(2).up_a is stack.layer(2).up_a
    assert stack.of_rows([random_adapter(model, seed=99)]) is None


@pytest.mark.parametrize("family", ["moondream3", "moondream2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_stack_of_one_is_that_adapter(dtype, family):
    model = micro_model(family, dtype)
    adapter = adapter_of(8, dtype, family)
    tokens_BT = tokens(3, 5)
    stack = stack_of([adapter] * 3, model)
    assert stack.layer(0).rows is None
    assert torch.equal(hidden(model, stack, tokens_BT), hidden(model, adapter, tokens_BT))


def test_what_overflows_in_one_adapter_does_not_reach_the_rows_of_another():
    model = micro_model(dtype=torch.float32)
    mine = adapter_of(8, torch.float32)
    wild = random_adapter(model, seed=1, rank=16)
    for name, tensor in wild.tensors.items():
        if name.endswith("_a"):
            tensor *= 1e38
    tokens_BT = tokens(2, 3)
    together = hidden(model, stack_of([wild, mine], model), tokens_BT)
    assert not torch.isfinite(together[0]).all()
    alone = hidden(model, mine, tokens_BT[1:])
    assert float((together[1:] - alone).abs().max() / alone.abs().max()) < 1e-6


@pytest.mark.parametrize("num_positions", [1, 20])
@pytest.mark.parametrize(
    "ranks", [SORTED, UNSORTED, (16, 16), (None, None)], ids=["sorted", "unsorted", "one", "base"]
)
def test_no_value_is_read_from_the_device(ranks, num_positions):
    model = micro_model(dtype=torch.float32)
    adapters = [adapter_of(rank, torch.float32) for rank in ranks]
    served = None if ranks == (None, None) else stack_of(adapters, model)
    with NoHostReads():
        hidden(model, served, tokens(len(ranks), num_positions))


def test_reads_from_the_device_are_noticed():
    model = micro_model(dtype=torch.float64)  # experts are multiplied one by one
    with NoHostReads(), pytest.raises(AssertionError, match="tolist reads from the device"):
        hidden(model, None, tokens(2, 3))
