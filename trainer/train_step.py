"""One train step: groups become rows, rows are scored, one gradient, one update.

    L = mean over groups of (RL: sum of action losses / actions of the group
                             SFT: sft_weight * mean over targets of
                                  -sum log pi / draws of the target)

Nothing is changed here: the caller gets new weights and a new optimizer state, or none.
Formulas: docs/algorithms.md.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from contract.engine import SkipReason, TrainStep
from contract.errors import RequestRefused
from contract.groups import RLGroup, SFTGroup
from contract.skills import Pixels, Skill, Target, TunableRequest
from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch, micro_batches
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.optim import AdamState, adamw_update, global_norm
from trainer.rl.advantages import advantages
from trainer.rl.loss import k3_divergence, policy_loss
from trainer.rollouts import is_reasoning, read_rollout
from trainer.scoring import Scores, router_divergence, score
from trainer.sequence import Action
from trainer.skills import SKILLS
from trainer.skills.base import Language, from_wire


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of a step and how it enters the loss.

    Attributes:
        row: What is scored.
        group: Index of its group.
        index: Which rollout or target of the group.
        is_rl: A rollout with an advantage, or else a target.
        advantage: Of the rollout; 0 for targets.
        weight: What one unit of this row's summed loss counts in the loss of the step.
        has_logprobs: The actions carry the sampler's log-probabilities.
        policy_step: The step that sampled the rollout, if it is known.
    """

    row: Row
    group: int
    index: int
    is_rl: bool
    advantage: float
    weight: float
    has_logprobs: bool = False
    policy_step: int | None = None

    @property
    def loc(self) -> tuple[str | int, ...]:
        """Where in the request it came from."""
        where = ("rollouts", self.index) if self.is_rl else ("target",)
        return "groups", self.group, *where

    @property
    def num_draws(self) -> int:
        return sum(action.num_draws for action in self.row.actions)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole step before any tensor: what is scored and with which weight."""

    examples: tuple[Example, ...]
    num_groups: int
    num_groups_without_signal: int
    warnings: tuple[str, ...]


@dataclass(kw_only=True)
class Tally:
    """Sums over the micro-batches of a step, in double precision."""

    loss: float = 0.0
    kl: float = 0.0
    num_kl: int = 0
    router_kl: float = 0.0
    num_router: int = 0
    sft_nll: dict[int, list[float]] = field(default_factory=dict)
    num_clipped: int = 0
    num_actions: int = 0
    gap: float = 0.0
    gap_max: float = 0.0
    num_gap: int = 0


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


def plan_step(
    command: TrainStep, images: Sequence[Pixels], config: MoondreamConfig, language: Language
) -> Plan:
    """Turn groups into examples.

    Raises:
        RequestRefused: A rollout or target that cannot be understood, or a sequence beyond the
            context; `loc` names it.
    """
    group_advantages = iter(
        advantages(
            [group.rewards for group in command.groups if isinstance(group, RLGroup)],
            scale=command.options.advantage_scale,
            std_floor=command.options.std_floor,
        )
    )
    examples: list[Example] = []
    warnings: list[str] = []
    num_silent = 0
    for index, group in enumerate(command.groups):
        if isinstance(group, RLGroup):
            advantage_G = next(group_advantages)
            num_silent += not bool(advantage_G.any())
            examples += _rl_examples(index, group, advantage_G.tolist(), images, language, warnings)
        else:
            examples += _sft_examples(index, group, images, language, command.options.sft_weight)
    num_groups = len(command.groups)
    for example in examples:
        _check_context(example, config)
    return Plan(
        examples=tuple(
            replace(example, weight=example.weight / num_groups) for example in examples
        ),
        num_groups=num_groups,
        num_groups_without_signal=num_silent,
        warnings=tuple(warnings),
    )


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
    max_tokens: int,
) -> Generator[None, None, Computed]:
    """Score, differentiate, check, update; yields after each pass over a micro-batch.

    Args:
        adapter: Float32 masters; not touched.
        max_tokens: Positions of a micro-batch, padding included.
    """
    leaves = {
        name: tensor.detach().clone().requires_grad_() for name, tensor in adapter.tensors.items()
    }
    trained = Adapter(model.config.text, adapter.rank, leaves)
    tally = Tally()
    has_gradient = False
    rows = [example.row for example in plan.examples]
    for indexes in micro_batches(
        rows, num_image_tokens=model.config.vision.num_image_tokens, max_tokens=max_tokens
    ):
        examples = [plan.examples[i] for i in indexes]
        is_trained = any(_has_signal(e, command.options.beta) for e in examples)
        has_gradient |= is_trained
        batch = make_batch(model, [example.row for example in examples], features)
        if not batch.actions:
            continue
        with torch.no_grad():
            reference = score(model, batch, None)
        yield
        with torch.set_grad_enabled(is_trained):
            scores = score(model, batch, trained)
            loss = _loss(examples, scores, reference, batch.row_A, command, tally)
        tally.loss += float(loss.detach())
        if loss.requires_grad:
            loss.backward()
        del batch, reference, scores, loss
        yield

    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    grad_norm = global_norm(gradients) if has_gradient else 0.0
    tensors, state, skip_reason = None, None, None
    if not (math.isfinite(tally.loss) and math.isfinite(grad_norm)):
        skip_reason = SkipReason.NON_FINITE
    elif not has_gradient:
        skip_reason = SkipReason.NO_SIGNAL
    elif command.lr == 0.0:
        skip_reason = SkipReason.ZERO_LR
    else:
        tensors, state = adamw_update(
            adapter.tensors,
            gradients,
            optimizer,
            lr=command.lr,
            expert_lr_ratio=command.options.expert_lr_ratio,
            max_grad_norm=command.options.max_grad_norm,
            grad_norm=grad_norm,
        )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            tensors, state, skip_reason = None, None, SkipReason.NON_FINITE
    has_rl = any(isinstance(group, RLGroup) for group in command.groups)
    return Computed(
        skip_reason=skip_reason,
        kl=finite_or_none(_mean(tally.kl, tally.num_kl)) if has_rl else None,
        router_kl=finite_or_none(_mean(tally.router_kl, tally.num_router))
        if model.config.text.moe
        else None,
        grad_norm=finite_or_none(grad_norm),
        sft_loss=finite_or_none(_sft_loss(tally)),
        tally=tally,
        tensors=tensors,
        optimizer=state,
    )


def _loss(
    examples: Sequence[Example],
    scores: Scores,
    reference: Scores,
    row_A: Tensor,
    command: TrainStep,
    tally: Tally,
) -> Tensor:
    """The weighted loss of one micro-batch; its numbers go into the tally."""
    policy_A = scores.action_A
    is_rl_A = torch.tensor([e.is_rl for e in examples], device=row_A.device)[row_A]
    weight_A = policy_A.new_tensor([e.weight for e in examples])[row_A]
    advantage_A = policy_A.new_tensor([e.advantage for e in examples])[row_A]
    known_A, sampled_A = _sampling_logprobs(examples, policy_A.detach())

    rl_loss_A, is_clipped_A = policy_loss(policy_A, sampled_A, advantage_A, command.options)
    divergence_A = torch.where(
        scores.is_draw_A3, k3_divergence(scores.terms_A3, reference.terms_A3), 0.0
    ).sum(-1)
    if command.options.beta > 0.0:
        rl_loss_A = rl_loss_A + command.options.beta * divergence_A
    loss_A = torch.where(is_rl_A, rl_loss_A, -policy_A)

    with torch.no_grad():
        tally.kl += float(divergence_A[is_rl_A].double().sum())
        tally.num_kl += int(scores.is_draw_A3[is_rl_A].sum())
        tally.num_actions += int(is_rl_A.sum())
        tally.num_clipped += int((is_clipped_A & is_rl_A).sum())
        gap_A = (policy_A - sampled_A).abs()[known_A]
        if len(gap_A):
            tally.gap += float(gap_A.double().sum())
            tally.gap_max = max(tally.gap_max, float(gap_A.max()))
            tally.num_gap += len(gap_A)
        if scores.router_LAE is not None and reference.router_LAE is not None:
            divergence = router_divergence(scores.router_LAE, reference.router_LAE)
            tally.router_kl += float(divergence.double().sum())
            tally.num_router += len(divergence)
        for b, example in enumerate(examples):
            if not example.is_rl:
                nll = -float(policy_A[row_A == b].double().sum()) / example.num_draws
                tally.sft_nll.setdefault(example.group, []).append(nll)
    return (weight_A * loss_A).sum()


def _sampling_logprobs(examples: Sequence[Example], policy_A: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sampler's log-probabilities are known, and they, or else the current policy's."""
    known: list[bool] = []
    values: list[float] = []
    for example in examples:
        for action in example.row.actions:
            known.append(example.has_logprobs)
            values.append(action.logprob or 0.0)
    known_A = torch.tensor(known, device=policy_A.device)
    given_A = torch.tensor(values, dtype=policy_A.dtype, device=policy_A.device)
    return known_A, torch.where(known_A, given_A, policy_A)


def _rl_examples(
    index: int,
    group: RLGroup,
    group_advantages: Sequence[float],
    images: Sequence[Pixels],
    language: Language,
    warnings: list[str],
) -> list[Example]:
    prompt = SKILLS[Skill(group.request.skill)].prompt(group.request, language)
    image = _image_digest(group.request, images)
    read = [
        read_rollout(
            group.request, rollout, language=language, loc=("groups", index, "rollouts", i)
        )
        for i, rollout in enumerate(group.rollouts)
    ]
    warnings += [rollout.warning for rollout in read if rollout.warning is not None]
    num_actions = max(1, sum(len(rollout.actions) for rollout in read))
    return [
        Example(
            row=Row(image=image, prompt=prompt, actions=rollout.actions),
            group=index,
            index=i,
            is_rl=True,
            advantage=advantage,
            weight=1.0 / num_actions,
            has_logprobs=rollout.has_logprobs,
            policy_step=rollout.policy_step,
        )
        for i, (rollout, advantage) in enumerate(zip(read, group_advantages, strict=True))
    ]


def _sft_examples(
    index: int,
    group: SFTGroup,
    images: Sequence[Pixels],
    language: Language,
    sft_weight: float,
) -> list[Example]:
    prompt = SKILLS[Skill(group.request.skill)].prompt(group.request, language)
    image = _image_digest(group.request, images)
    examples: list[Example] = []
    for i, target in enumerate(group.targets):
        actions = _target_actions(group.request, target, language, index)
        num_draws = sum(action.num_draws for action in actions)
        examples.append(
            Example(
                row=Row(image=image, prompt=prompt, actions=actions),
                group=index,
                index=i,
                is_rl=False,
                advantage=0.0,
                weight=sft_weight / (num_draws * len(group.targets)),
            )
        )
    return examples


def _target_actions(
    request: TunableRequest, target: Target, language: Language, group: int
) -> tuple[Action, ...]:
    skill = SKILLS[Skill(request.skill)]
    wire = skill.wire_from_target(request, target, language)
    actions = from_wire(
        wire,
        skill.grammar(request, language),
        is_reasoning=is_reasoning(request),
        language=language,
    )
    if actions is None:
        raise RequestRefused(
            "The target's text contains the name of a special token, such as the end of text, "
            "which no answer can contain; remove it.",
            loc=("groups", group, "target"),
        )
    return actions


def _image_digest(request: TunableRequest, images: Sequence[Pixels]) -> str | None:
    return None if request.image is None else images[request.image].digest


def _check_context(example: Example, config: MoondreamConfig) -> None:
    num_positions = example.row.num_positions(config.vision.num_image_tokens)
    if num_positions > config.text.max_context:
        raise RequestRefused(
            f"Prompt and answer take {num_positions} positions; this model has "
            f"{config.text.max_context}. Shorten the question or the answer.",
            loc=example.loc,
        )


def _has_signal(example: Example, beta: float) -> bool:
    if not example.row.actions or example.weight == 0.0:
        return False
    return not example.is_rl or example.advantage != 0.0 or beta > 0.0


def _sft_loss(tally: Tally) -> float | None:
    """Mean over the groups of the mean over their targets."""
    groups = [sum(values) / len(values) for values in tally.sft_nll.values()]
    return sum(groups) / len(groups) if groups else None


def finite_or_none(value: float | None) -> float | None:
    """What JSON can carry of a number."""
    return value if value is not None and math.isfinite(value) else None


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0
