"""How far two results are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contract.skills import Rollout
from trainer.train_step import Computed


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """||got - wanted|| / ||wanted||, in double precision on the CPU."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    return float((got - wanted).norm() / wanted.norm())


def relative_difference(got: float | None, wanted: float | None) -> float:
    assert got is not None
    assert wanted is not None
    return abs(got - wanted) / abs(wanted)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].detach().float().cpu().flatten() for name in sorted(tensors)])


def weights(computed: Computed) -> Tensor:
    assert computed.tensors is not None, computed.skip_reason
    return flat(computed.tensors)


def gradient(computed: Computed) -> Tensor:
    """After one update the mean moment is a tenth of the clipped gradient."""
    assert computed.optimizer is not None, computed.skip_reason
    return flat(computed.optimizer.mean)


def drawn(rollout: Rollout) -> tuple[Any, ...]:
    """Everything that was drawn, without its log-probabilities."""
    return (
        rollout.thinking_tokens,
        rollout.answer_tokens,
        rollout.coords,
        rollout.sizes,
        rollout.finish_reason,
    )


def logprobs(rollout: Rollout) -> list[float]:
    """All log-probabilities of a rollout in one list."""
    given = rollout.logprobs
    sizes = [value for pair in given["sizes"] for value in pair]
    ends = [value for value in (given["separator"], given["stop"]) if value is not None]
    return [*given["thinking"], *given["answer"], *given["coords"], *sizes, *ends]
