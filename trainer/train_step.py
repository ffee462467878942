"""One train step: examples are scored in packs, one gradient, one update.

    L = mean over groups of (RL: sum of weighted action losses
                             SFT: sft_weight * mean over targets of
                                  -sum log pi / draws of the target)

Nothing is changed here: the caller gets new weights and a new optimizer state, or none.
Formulas: docs/algorithms.md.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from contract import faults
from contract.engine import NonFinite, SkipReason, TrainStep
from contract.groups import TrainOptions
from trainer.adapters.lora import Adapter
from trainer.device_memory import OUT_OF_MEMORY
from trainer.memory import activation_bytes, kv_bytes_per_position
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.optim import AdamState, adamw_update, global_norm
from trainer.packing import Pack, pack, split_into_packs
from trainer.scoring import score
from trainer.step_loss import has_signal, pack_loss
from trainer.step_plan import Example, Plan
from trainer.tally import Tally, finite_or_none
from trainer.too_large import too_large

MAX_NAMED = 5
"""Adapter tensors that a step names which was not finite."""


class PackOutOfMemoryError(torch.OutOfMemoryError):
    """The memory does not suffice for a pack of this size."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a step is computed at once; it changes cost and memory, and no result.

    Attributes:
        max_positions: Of a pack.
        kept_bytes: What a pack may keep for its gradient; beyond it layers are computed again.
    """

    max_positions: int
    kept_bytes: int | None = None

    def smaller(self) -> Limits:
        """After the memory did not suffice: half of it, and nothing kept that can be computed."""
        return replace(self, max_positions=max(1, self.max_positions // 2), kept_bytes=0)


@dataclass(frozen=True, kw_only=True)
class Computed:
    """The outcome of a step: numbers (None: not finite), and the next state unless skipped."""

    skip_reason: SkipReason | None
    kl: float | None
    router_kl: float | None
    grad_norm: float | None
    sft_loss: float | None
    tally: Tally
    tensors: dict[str, Tensor] | None
    optimizer: AdamState | None
    non_finite: NonFinite | None = None


def in_one_go(parts: Generator[None, None, Computed]) -> Computed:
    """Run the parts of a step one after another, for who has nothing else to do."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


def step_in_parts(
    model: Moondream,
    adapter: Adapter,
    optimizer: AdamState,
    plan: Plan,
    features: Mapping[str, Tensor],
    command: TrainStep,
    *,
    limits: Limits,
) -> Generator[None, None, Computed]:
    """Score, differentiate, check, update; yields after each pass over a pack.

    Args:
        adapter: Float32 masters; not touched.

    Raises:
        PackOutOfMemoryError: A pack needs more memory than there is; smaller limits may help.
        RequestRefused: No smaller ones are left: `batch_too_large`.
    """
    leaves = {
        name: tensor.detach().clone().requires_grad_() for name, tensor in adapter.tensors.items()
    }
    trained = Adapter(model.config.text, adapter.rank, leaves)
    options = command.options
    if model.config.text.moe is None:  # there are no routers to pull at
        options = replace(options, router_beta=0.0)
    tally = Tally()
    packs = _packs(model, plan.examples, options, limits.max_positions)
    is_smallest = limits.kept_bytes == 0 and all(len(examples) == 1 for examples in packs)
    for examples in packs:
        passes = _pass_over(model, trained, examples, features, options, limits, tally)
        while True:
            try:
                next(passes)
            except StopIteration:
                break
            except OUT_OF_MEMORY as error:
                if is_smallest:
                    raise too_large(model, examples, error) from None
                raise PackOutOfMemoryError(str(error)) from error
            yield
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    if faults.spoiled("train.gradient"):
        name = next(iter(gradients))
        gradients[name] = gradients[name] * torch.nan
    return _updated(model, adapter, optimizer, gradients, plan, command, tally)


def _pass_over(
    model: Moondream,
    trained: Adapter,
    examples: Sequence[Example],
    features: Mapping[str, Tensor],
    options: TrainOptions,
    limits: Limits,
    tally: Tally,
) -> Generator[None, None, None]:
    """Add the gradient of one pack to the leaves; yields after each pass."""
    faults.point("train.forward")
    packed = pack(model, [example.row for example in examples], features)
    tally.count_positions(packed, num_alone=_num_alone(model, examples))
    reference = None
    if model.config.text.moe is not None or any(example.is_rl for example in examples):
        with torch.no_grad():
            reference = score(model, packed, None)
        yield
    is_trained = any(has_signal(example, options) for example in examples)
    with torch.set_grad_enabled(is_trained):
        scores = score(
            model,
            packed,
            trained,
            recompute=_recomputes(model, packed, limits),
            with_entropy=any(example.is_rl for example in examples),
        )
        loss = pack_loss(examples, scores, reference, packed.row_A, options, tally)
    faults.point("train.backward")
    if loss.requires_grad:
        loss.backward()
    del packed, reference, scores, loss
    yield


def _updated(
    model: Moondream,
    adapter: Adapter,
    optimizer: AdamState,
    gradients: Mapping[str, Tensor],
    plan: Plan,
    command: TrainStep,
    tally: Tally,
) -> Computed:
    """The state after the step, if it changes anything."""
    grad_norm = global_norm(gradients) if tally.has_signal else 0.0
    tensors, state, skip_reason = None, None, None
    broken: tuple[str, ...] = ()
    if not (math.isfinite(tally.loss) and math.isfinite(grad_norm)):
        skip_reason = SkipReason.NON_FINITE
        broken = _not_finite(gradients)
    elif not tally.has_signal:
        skip_reason = SkipReason.NO_SIGNAL
    elif command.lr == 0.0:
        skip_reason = SkipReason.ZERO_LR
    else:
        faults.point("train.update")
        tensors, state = adamw_update(
            adapter.tensors,
            gradients,
            optimizer,
            lr=command.lr,
            expert_lr_ratio=command.options.expert_lr_ratio,
            max_grad_norm=command.options.max_grad_norm,
            grad_norm=grad_norm,
        )
        if broken := _not_finite(tensors):
            tensors, state, skip_reason = None, None, SkipReason.NON_FINITE
    has_rl = any(example.is_rl for example in plan.examples)
    return Computed(
        skip_reason=skip_reason,
        kl=finite_or_none(tally.kl.mean) if has_rl else None,
        router_kl=finite_or_none(tally.router_kl.mean) if model.config.text.moe else None,
        grad_norm=finite_or_none(grad_norm),
        sft_loss=finite_or_none(tally.sft_loss),
        tally=tally,
        tensors=tensors,
        optimizer=state,
        non_finite=NonFinite(groups=tuple(sorted(tally.non_finite_groups)), tensors=broken)
        if skip_reason is SkipReason.NON_FINITE
        else None,
    )


def _not_finite(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The first names of those that hold something infinite or no number."""
    is_finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    found = [name for name, finite in zip(tensors, is_finite, strict=True) if not finite]
    return tuple(found[:MAX_NAMED])


def _packs(
    model: Moondream, examples: Sequence[Example], options: TrainOptions, max_positions: int
) -> list[list[Example]]:
    """Groups that need a gradient in packs of their own; rows without any action in none."""
    packs: list[list[Example]] = []
    speaking = {example.group for example in examples if has_signal(example, options)}
    for is_trained in (True, False):
        kind = [e for e in examples if e.row.actions and (e.group in speaking) is is_trained]
        packs += [
            [kind[i] for i in indexes]
            for indexes in split_into_packs(
                [example.row for example in kind],
                num_image_tokens=model.config.vision.num_image_tokens,
                coord_divisor=model.config.region.coord_divisor,
                max_positions=max_positions,
            )
        ]
    return packs


def _recomputes(model: Moondream, packed: Pack, limits: Limits) -> bool:
    if limits.kept_bytes is None:
        return False
    config, dtype = cast("MoondreamConfig", model.config), packed.embeds_1TD.dtype
    kept = activation_bytes(config, dtype, num_positions=packed.tree.num_positions)
    kept += packed.tree.num_copied * kv_bytes_per_position(config, dtype)
    return kept > limits.kept_bytes


def _num_alone(model: Moondream, examples: Sequence[Example]) -> int:
    """Positions that these examples would take as rows of their own."""
    num_image_tokens = model.config.vision.num_image_tokens
    return sum(example.row.num_positions(num_image_tokens) for example in examples)
