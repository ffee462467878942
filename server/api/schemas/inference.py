"""The bodies of the inference skills; a stray `skill` or `variant` is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, StrictStr

from contract.skills import CaptionRequest, SegmentRequest, Skill
from server.api.schemas.fields import Flag, Text, Words
from server.api.schemas.skills import (
    DetectFields,
    PointFields,
    QueryFields,
    SettingsBody,
    SpatialRefs,
    settings_for,
    spatial_refs,
)
from server.domain.body import Body
from server.domain.errors import Loc
from server.domain.sampling import Purpose
from server.services.images import ImageUrls
from server.services.inference import AnswerOrder


def _empty_is_absent(model: str | None) -> str | None:
    return model or None


Model = Annotated[StrictStr | None, AfterValidator(_empty_is_absent)]


class CaptionFields(Body):
    image_url: Text
    length: Literal["short", "normal", "long"] | None = None
    settings: SettingsBody | None = None

    def to_contract(self, images: ImageUrls, loc: Loc) -> CaptionRequest:
        return CaptionRequest(
            image=images.add(self.image_url, (*loc, "image_url")), length=self.length or "normal"
        )


class SegmentFields(Body):
    object: Words
    image_url: Text
    spatial_refs: SpatialRefs | None = None
    settings: SettingsBody | None = None

    def to_contract(self, images: ImageUrls, loc: Loc) -> SegmentRequest:
        return SegmentRequest(
            object=self.object,
            image=images.add(self.image_url, (*loc, "image_url")),
            spatial_refs=spatial_refs(self.spatial_refs),
        )


class AnswerQueryBody(QueryFields):
    model: Model = None
    stream: Flag | None = None


class AnswerCaptionBody(CaptionFields):
    model: Model = None
    stream: Flag | None = None


class AnswerPointBody(PointFields):
    model: Model = None
    stream: Any = None


class AnswerDetectBody(DetectFields):
    model: Model = None
    stream: Any = None


class AnswerSegmentBody(SegmentFields):
    model: Model = None
    stream: Flag | None = None


AnswerBody = (
    AnswerQueryBody | AnswerCaptionBody | AnswerPointBody | AnswerDetectBody | AnswerSegmentBody
)


def to_order(
    body: AnswerBody, *, fingerprint: bytes, received_at: float, max_generation_tokens: int
) -> AnswerOrder:
    """Return what is asked for.

    Raises:
        ServiceError: Fields that do not fit together.
    """
    images = ImageUrls()
    request = body.to_contract(images, ("body",))
    return AnswerOrder(
        model=body.model,
        request=request,
        images=images.collected(),
        settings=settings_for(
            body.settings,
            Skill(request.skill),
            purpose=Purpose.INFERENCE,
            max_generation_tokens=max_generation_tokens,
        ),
        fingerprint=fingerprint,
        received_at=received_at,
    )
