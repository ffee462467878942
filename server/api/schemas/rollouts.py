"""The body of a rollouts call."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from contract.skills import Skill
from server.api.schemas.addressed import AddressedBody
from server.api.schemas.fields import Integer
from server.api.schemas.geometry import QUERY_HAS_NO_TRUTH, GroundTruthBody
from server.api.schemas.skills import (
    QueryBody,
    SkillRequestBody,
    settings_for,
    tunable_request,
)
from server.domain import rules
from server.domain.sampling import Purpose
from server.services.images import ImageUrls
from server.services.rollouts import RolloutsOrder


class RolloutsBody(AddressedBody):
    num_rollouts: Annotated[Integer, Field(ge=1, le=rules.MAX_ROLLOUTS)] | None = None
    request: SkillRequestBody
    ground_truth: GroundTruthBody | None = None

    @field_validator("ground_truth", mode="before")
    @classmethod
    def _refuse_truth_of_query(cls, truth: Any, info: ValidationInfo) -> Any:
        """Whatever shape it has: scripts send the right answer as a text."""
        if truth is not None and isinstance(info.data.get("request"), QueryBody):
            raise PydanticCustomError("value_error", QUERY_HAS_NO_TRUTH)
        return truth

    @property
    def effective_num_rollouts(self) -> int:
        return 1 if self.num_rollouts is None else self.num_rollouts

    def to_order(
        self, *, fingerprint: bytes, max_generation_tokens: int, received_at: float
    ) -> RolloutsOrder:
        """Return what is asked for.

        Raises:
            ValidationFailedError: Fields that are right by themselves do not fit together.
        """
        skill = Skill(self.request.skill)
        images = ImageUrls()
        request = tunable_request(self.request, images, ("body", "request"))
        return RolloutsOrder(
            finetune_id=self.addressed_id,
            request=request,
            images=images.collected(),
            settings=settings_for(
                self.request.settings,
                skill,
                purpose=Purpose.TUNING,
                max_generation_tokens=max_generation_tokens,
            ),
            num_rollouts=self.effective_num_rollouts,
            ground_truth=self.ground_truth
            and self.ground_truth.to_contract(skill, ("body", "ground_truth")),
            fingerprint=fingerprint,
            received_at=received_at,
        )
