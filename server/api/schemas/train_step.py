"""The body of a train step: groups tagged by mode, and the learning rate."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, StrictStr, Tag

from contract.groups import Group, RLGroup, SFTGroup, TrainOptions
from contract.skills import FinishReason, ReturnedRollout, Skill, TunableRequest
from server.api.schemas.addressed import AddressedBody
from server.api.schemas.fields import Examples, Flag, Integer, Items, Reward
from server.api.schemas.skills import (
    DetectBody,
    PointBody,
    QueryBody,
    SkillRequestBody,
    TunableBody,
    skill_tag,
    tunable_request,
)
from server.api.schemas.targets import TargetBody
from server.domain import rules
from server.domain.body import Body, Number
from server.domain.errors import Loc, ValidationFailedError
from server.domain.train_options import OptionsBody
from server.services.images import ImageUrls
from server.services.keyed import KeyedCall
from server.services.train_order import TrainOrder


class FullRequestBody(Body):
    """A whole rollouts body, sent back as it was echoed; only its skill request is read."""

    request: SkillRequestBody
    finetune_id: Any = None
    adapter_id: Any = None
    num_rollouts: Any = None
    ground_truth: Any = None


def _request_tag(value: Any) -> str | None:
    if isinstance(value, FullRequestBody):
        return "~full"
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if "skill" not in fields and isinstance(fields.get("request"), dict):
            return "~full"
    return skill_tag(value)


GroupRequestBody = Annotated[
    Annotated[QueryBody, Tag("~query")]
    | Annotated[PointBody, Tag("~point")]
    | Annotated[DetectBody, Tag("~detect")]
    | Annotated[FullRequestBody, Tag("~full")],
    Discriminator(
        _request_tag,
        custom_error_type="unknown_skill",
        custom_error_message="The skill should be query, point or detect",
    ),
]


class RolloutBody(Body):
    """A rollout on its way back; all fields may be missing, `logprobs` may be anything."""

    skill: Literal["query", "point", "detect"] | None = None
    finish_reason: Literal["stop", "length"] | None = None
    output: dict[str, Any] | None = None
    answer_tokens: Items[Integer] | None = None
    thinking_tokens: Items[Integer] | None = None
    has_answer_separator: Flag | None = None
    coords: Items[Integer] | None = None
    sizes: Items[Items[Integer]] | None = None
    policy_step: Integer | None = None
    logprobs: Any = None

    def to_contract(self) -> ReturnedRollout:
        return ReturnedRollout(
            skill=None if self.skill is None else Skill(self.skill),
            finish_reason=None if self.finish_reason is None else FinishReason(self.finish_reason),
            output=self.output,
            answer_tokens=_tuple(self.answer_tokens),
            thinking_tokens=_tuple(self.thinking_tokens),
            has_answer_separator=self.has_answer_separator,
            coords=_tuple(self.coords),
            sizes=None if self.sizes is None else tuple(tuple(pair) for pair in self.sizes),
            policy_step=self.policy_step,
            logprobs=_object_or_none(self.logprobs),
        )


class RLGroupBody(Body):
    mode: Literal["rl"] | None = None
    request: GroupRequestBody
    rollouts: Annotated[Examples[RolloutBody], Field(min_length=1)]
    rewards: Examples[Reward]

    def num_examples(self) -> int:
        return len(self.rollouts)

    def to_contract(self, images: ImageUrls, loc: Loc) -> RLGroup:
        if len(self.rewards) != len(self.rollouts):
            raise ValidationFailedError(
                f"The group has {len(self.rollouts)} rollouts and {len(self.rewards)} rewards;"
                " send one reward per rollout, in the same order.",
                loc=(*loc, "rewards"),
            )
        request = _group_request(self.request, images, loc)
        for index, rollout in enumerate(self.rollouts):
            if rollout.skill not in (None, request.skill):
                raise ValidationFailedError(
                    f"The rollout is one of {rollout.skill}, the request one of {request.skill}.",
                    loc=(*loc, "rollouts", index, "skill"),
                )
        return RLGroup(
            request=request,
            rollouts=tuple(rollout.to_contract() for rollout in self.rollouts),
            rewards=tuple(self.rewards),
        )


class SFTGroupBody(Body):
    mode: Literal["sft"] | None = None
    request: GroupRequestBody
    target: TargetBody | None = None
    targets: Annotated[Examples[TargetBody], Field(min_length=1)] | None = None

    def num_examples(self) -> int:
        return 1 if self.target is not None else len(self.targets or ())

    def to_contract(self, images: ImageUrls, loc: Loc) -> SFTGroup:
        request = _group_request(self.request, images, loc)
        if self.target is not None:
            targets = (self.target.to_contract(request, (*loc, "target")),)
        elif self.targets is not None:
            targets = tuple(
                target.to_contract(request, (*loc, "targets", index))
                for index, target in enumerate(self.targets)
            )
        else:
            raise ValidationFailedError(
                "A group of mode sft needs a target.", loc=(*loc, "target"), type="missing"
            )
        return SFTGroup(request=request, targets=targets)


def _group_tag(value: Any) -> str | None:
    """Return the mode that a group says it has, or that its fields show."""
    if isinstance(value, RLGroupBody):
        return "~rl"
    if isinstance(value, SFTGroupBody):
        return "~sft"
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, Any]", value)
    mode = fields.get("mode")
    if mode is not None:
        return {"rl": "~rl", "sft": "~sft"}.get(mode) if isinstance(mode, str) else None
    is_rl = fields.get("rollouts") is not None
    is_sft = fields.get("target") is not None or fields.get("targets") is not None
    if is_rl == is_sft:
        return None
    return "~rl" if is_rl else "~sft"


GroupBody = Annotated[
    Annotated[RLGroupBody, Tag("~rl")] | Annotated[SFTGroupBody, Tag("~sft")],
    Discriminator(
        _group_tag,
        custom_error_type="group_mode",
        custom_error_message="The mode should be rl (with rollouts) or sft (with a target)",
    ),
]

_Rate = Annotated[Number, Field(ge=0, le=1)]


class TrainStepBody(AddressedBody):
    groups: Annotated[Examples[GroupBody], Field(min_length=1)]
    lr: _Rate | None = None
    learning_rate: _Rate | None = None
    options: OptionsBody | None = None
    expected_step: Annotated[Integer, Field(ge=0)] | None = None
    idempotency_key: StrictStr | None = None

    def to_order(
        self,
        *,
        fingerprint: bytes,
        received_at: float,
        keyed: KeyedCall | None = None,
        max_groups: int,
        max_examples: int,
        default_options: TrainOptions,
    ) -> TrainOrder:
        """Return what is asked for.

        Args:
            default_options: What holds where the body says nothing.

        Raises:
            ValidationFailedError: Too much at once, or fields that do not fit together.
        """
        if len(self.groups) > max_groups:
            raise ValidationFailedError(
                f"{len(self.groups)} groups were sent; a step takes at most {max_groups}.",
                loc=("body", "groups"),
                type="too_long",
            )
        num_examples = sum(group.num_examples() for group in self.groups)
        if num_examples > max_examples:
            raise ValidationFailedError(
                f"The groups have {num_examples} rollouts and targets together; a step takes at"
                f" most {max_examples}.",
                loc=("body", "groups"),
                type="too_long",
            )
        images = ImageUrls()
        groups: tuple[Group, ...] = tuple(
            group.to_contract(images, ("body", "groups", index))
            for index, group in enumerate(self.groups)
        )
        rate = self.learning_rate if self.lr is None else self.lr
        return TrainOrder(
            finetune_id=self.addressed_id,
            groups=groups,
            images=images.collected(),
            lr=rules.DEFAULT_LR if rate is None else rate,
            options=(self.options or OptionsBody()).to_contract(default_options),
            expected_step=self.expected_step,
            fingerprint=fingerprint,
            received_at=received_at,
            keyed=keyed,
        )


def _group_request(
    body: TunableBody | FullRequestBody, images: ImageUrls, loc: Loc
) -> TunableRequest:
    if isinstance(body, FullRequestBody):
        return tunable_request(body.request, images, (*loc, "request", "request"))
    return tunable_request(body, images, (*loc, "request"))


def _object_or_none(value: Any) -> dict[str, Any] | None:
    """Log-probabilities of an odd shape are as good as none; they refuse nothing."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)
