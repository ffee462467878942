"""Names and shapes of the exchange format, checked strictly.

Other readers take what they know and pass over the rest, and then answer like the base model
without a word. Here every tensor that is missing, unexpected, misshapen or not a number is named.
Source: model-facts.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from contract.engine import RANKS
from trainer.adapters.lora import Adapter, adapter_shapes
from trainer.exchange.errors import ExchangeError
from trainer.model.config import TextConfig

MAX_NAMED = 12
_FIRST = "text_lora.dense.0.up_a"
_SECOND_VIEW = "_text."
"""Saved from a running engine, every tensor stands there once more under this prefix."""


def checked_adapter(tensors: Mapping[str, Tensor], config: TextConfig, *, rank: int) -> Adapter:
    """An adapter of float32 masters, on the CPU, of tensors in any float type.

    Raises:
        ExchangeError: They are not exactly those of an adapter of this rank for this model.
    """
    require_rank(rank)
    wanted = adapter_shapes(config, rank)
    problems = [f"missing {name} {list(shape)}" for name, shape in wanted.items()
                if name not in tensors]  # fmt: skip
    for name, tensor in tensors.items():
        if name not in wanted:
            problems.append(f"unexpected {name} {list(tensor.shape)}")
        elif tuple(tensor.shape) != wanted[name]:
            problems.append(f"misshapen {name} {list(tensor.shape)}, wanted {list(wanted[name])}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} holds {tensor.dtype}, wanted floating point")
        elif not torch.isfinite(tensor.float()).all():
            problems.append(f"{name} holds values that are not finite")
    if problems:
        more = len(problems) - MAX_NAMED
        listed = "\n  ".join(problems[:MAX_NAMED]) + (f"\n  and {more} more" if more > 0 else "")
        raise ExchangeError(
            f"{len(problems)} tensors do not make an adapter of rank {rank} for this model; an"
            f" adapter of another model or another format cannot be used:\n  {listed}"
        )
    masters = {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}
    return Adapter(config, rank, masters)


def rank_of(tensors: Mapping[str, Tensor]) -> int:
    """The rank that a dict of exchange names shows.

    Raises:
        ExchangeError: It shows none that we have.
    """
    first = tensors.get(_FIRST)
    if first is None:
        names = ", ".join(list(tensors)[:3]) or "nothing"
        raise ExchangeError(
            f"{_FIRST} is not there (it begins with {names}): this is no adapter in the exchange"
            " format, whose names begin with text_lora."
        )
    rank = first.shape[0] if first.ndim else 0
    require_rank(rank)
    return rank


def require_rank(rank: int) -> None:
    """Refuse ranks that no finetune has.

    Raises:
        ExchangeError: Naming it.
    """
    if rank not in RANKS:
        raise ExchangeError(f"the adapter has rank {rank}, wanted 8, 16, 24 or 32")


def without_second_view(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second names of tensors that stand there twice.

    Raises:
        ExchangeError: The two differ, so that it is not clear which is meant.
    """
    kept = dict(tensors)
    for name in tensors:
        if not name.startswith(_SECOND_VIEW):
            continue
        twin = tensors.get("text_lora." + name.removeprefix(_SECOND_VIEW))
        if twin is not None:
            if not torch.equal(twin, tensors[name]):
                raise ExchangeError(f"{name} differs from its twin under text_lora.")
            del kept[name]
    return kept
