"""The options of a train step's algorithm, as a body or the configuration gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from contract.groups import TrainOptions
from server.domain.body import Body, Number

DEFAULTS = TrainOptions()

_NotNegative = Annotated[Number, Field(ge=0)]
_Bound = Annotated[Number, Field(ge=0, le=1e30)]
"""A bound of a ratio, which a tensor of float32 is compared with."""

_Positive = Annotated[Number, Field(gt=0)]


class OptionsBody(Body):
    """The fields of contract.groups.TrainOptions, with their ranges; a test keeps them the same."""

    advantage_scale: Literal["group", "batch", "none"] | None = None
    std_floor: _Positive | None = None
    loss: Literal["group", "grpo", "dr_grpo", "dapo", "gspo"] | None = None
    loss_length: _Positive | None = None
    clip_low: Annotated[Number, Field(ge=0, le=1)] | None = None
    clip_high: _Bound | None = None
    dual_clip: Annotated[Number, Field(gt=1)] | None = None
    drop_below: Annotated[Number, Field(ge=0, lt=1)] | None = None
    drop_above: Annotated[Number, Field(gt=1)] | None = None
    drop_gap: _Positive | None = None
    beta: _NotNegative | None = None
    kl_ratio_max: _Bound | None = None
    router_beta: _NotNegative | None = None
    sft_weight: _NotNegative | None = None
    expert_lr_ratio: _Positive | None = None
    max_grad_norm: _Positive | None = None

    def to_contract(self, defaults: TrainOptions = DEFAULTS) -> TrainOptions:
        """These options, and the defaults for those that were not sent."""
        sent = {name: getattr(self, name) for name in OptionsBody.model_fields}
        return replace(defaults, **{name: v for name, v in sent.items() if v is not None})
