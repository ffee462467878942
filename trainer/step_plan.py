"""What a train step scores, before any tensor: groups become examples with weights.

Formulas: docs/algorithms.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from contract.engine import TrainStep
from contract.errors import RequestRefused
from contract.groups import RLGroup, SFTGroup
from contract.skills import Pixels, Skill, Target, TunableRequest
from trainer.batching import Row
from trainer.model.published_config import MoondreamConfig
from trainer.rl.advantages import advantages
from trainer.rl.weights import action_weights
from trainer.rollouts import ReadRollout, is_reasoning, read_rollout
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
        weight: What the loss of one action counts in the loss of the step.
        has_logprobs: The actions carry the sampler's log-probabilities, as do all of their group.
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
    """A whole step: what is scored and with which weight."""

    examples: tuple[Example, ...]
    num_groups_without_signal: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _ReadGroup:
    """A group of rollouts after its tokens were understood."""

    index: int
    group: RLGroup
    rollouts: tuple[ReadRollout, ...]


def plan_step(
    command: TrainStep, images: Sequence[Pixels], config: MoondreamConfig, language: Language
) -> Plan:
    """Turn groups into examples.

    Raises:
        RequestRefused: A rollout or target that cannot be understood, or a sequence beyond the
            context; `loc` names it.
    """
    options = command.options
    read = [
        _read_group(index, group, language)
        for index, group in enumerate(command.groups)
        if isinstance(group, RLGroup)
    ]
    advantages_of = advantages(
        [group.group.rewards for group in read],
        scale=options.advantage_scale,
        std_floor=options.std_floor,
    )
    weights_of = action_weights(
        [[len(rollout.actions) for rollout in group.rollouts] for group in read], options
    )
    examples: list[Example] = []
    for group, advantage_G, weights in zip(read, advantages_of, weights_of, strict=True):
        examples += _rl_examples(group, advantage_G.tolist(), weights, images, language)
    for index, group in enumerate(command.groups):
        if isinstance(group, SFTGroup):
            examples += _sft_examples(index, group, images, language, options.sft_weight)
    for example in examples:
        _check_context(example, config)
    num_groups = len(command.groups)
    return Plan(
        examples=tuple(replace(e, weight=e.weight / num_groups) for e in examples),
        num_groups_without_signal=sum(not bool(a.any()) for a in advantages_of),
        warnings=tuple(
            rollout.warning
            for group in read
            for rollout in group.rollouts
            if rollout.warning is not None
        ),
    )


def _read_group(index: int, group: RLGroup, language: Language) -> _ReadGroup:
    rollouts = tuple(
        read_rollout(
            group.request, rollout, language=language, loc=("groups", index, "rollouts", i)
        )
        for i, rollout in enumerate(group.rollouts)
    )
    return _ReadGroup(index=index, group=group, rollouts=rollouts)


def _rl_examples(
    read: _ReadGroup,
    group_advantages: Sequence[float],
    weights: Sequence[float],
    images: Sequence[Pixels],
    language: Language,
) -> list[Example]:
    request = read.group.request
    prompt = tuple(SKILLS[Skill(request.skill)].prompt(request, language))
    image = _image_digest(request, images)
    # http-api.md 10.3: where one of them was not sampled as it stands, none of the group counts so.
    has_logprobs = all(rollout.has_logprobs for rollout in read.rollouts if rollout.actions)
    return [
        Example(
            row=Row(image=image, prompt=prompt, actions=rollout.actions),
            group=read.index,
            index=i,
            is_rl=True,
            advantage=advantage,
            weight=weight,
            has_logprobs=has_logprobs,
            policy_step=rollout.policy_step,
        )
        for i, (rollout, advantage, weight) in enumerate(
            zip(read.rollouts, group_advantages, weights, strict=True)
        )
    ]


def _sft_examples(
    index: int,
    group: SFTGroup,
    images: Sequence[Pixels],
    language: Language,
    sft_weight: float,
) -> list[Example]:
    prompt = tuple(SKILLS[Skill(group.request.skill)].prompt(group.request, language))
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
