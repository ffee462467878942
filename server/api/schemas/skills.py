"""The skill requests of the tuning surface: query, point, detect, tagged by `skill`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from contract.skills import (
    DetectRequest,
    PointRequest,
    QueryRequest,
    Settings,
    Skill,
    TunableRequest,
)
from server.api.schemas.fields import Flag, Integer, Items, Text, Words
from server.api.schemas.geometry import SpatialRefBody, spatial_refs
from server.domain import rules
from server.domain.body import Body, Number
from server.domain.errors import Loc, ValidationFailedError
from server.domain.sampling import Purpose, SentSettings, resolve_settings
from server.services.images import ImageUrls

UNION_TAG = "~"
"""Begins the tags of unions, so that they can be taken out of error locations."""


class SettingsBody(Body):
    temperature: Annotated[Number, Field(ge=0)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[Integer, Field(ge=1)] | None = None
    max_objects: Annotated[Integer, Field(ge=1)] | None = None

    def sent(self) -> SentSettings:
        return SentSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            max_objects=self.max_objects,
        )


def settings_for(
    sent: SettingsBody | None, skill: Skill, *, purpose: Purpose, max_generation_tokens: int
) -> Settings:
    """Return the sampling settings that hold for a request."""
    return resolve_settings(
        skill,
        SentSettings() if sent is None else sent.sent(),
        purpose=purpose,
        max_generation_tokens=max_generation_tokens,
    )


def _check_refs(refs: list[list[float]]) -> list[list[float]]:
    return [list(ref) for ref in spatial_refs(refs)]


SpatialRefs = Annotated[
    Items[SpatialRefBody], Field(max_length=rules.MAX_SPATIAL_REFS), AfterValidator(_check_refs)
]


def _refuse_reasoning(value: bool | None) -> bool | None:
    """Scripts look for these two words and fall back to a request without the field."""
    if value:
        raise PydanticCustomError("extra_forbidden", "Extra inputs are not permitted")
    return value


def _refuse_refs(value: list[Any] | None) -> list[Any] | None:
    if value:
        raise ValueError("The prompt of detect has no place for spatial_refs; leave them out")
    return value


NoReasoning = Annotated[Flag | None, AfterValidator(_refuse_reasoning)]


class QueryFields(Body):
    """What a query is, on either surface."""

    question: Words
    image_url: Text | None = None
    reasoning: Flag | None = None
    spatial_refs: SpatialRefs | None = None
    settings: SettingsBody | None = None

    def to_contract(self, images: ImageUrls, loc: Loc) -> QueryRequest:
        if self.spatial_refs and self.image_url is None:
            raise ValidationFailedError(
                "spatial_refs point into an image; send image_url too.", loc=(*loc, "spatial_refs")
            )
        image = None
        if self.image_url is not None:  # an empty one is a mistake, which the decoder names
            image = images.add(self.image_url, (*loc, "image_url"))
        return QueryRequest(
            question=self.question,
            image=image,
            reasoning=bool(self.reasoning),
            spatial_refs=spatial_refs(self.spatial_refs),
        )


class PointFields(Body):
    """What a point request is, on either surface."""

    object: Words
    image_url: Text
    spatial_refs: SpatialRefs | None = None
    settings: SettingsBody | None = None

    def to_contract(self, images: ImageUrls, loc: Loc) -> PointRequest:
        return PointRequest(
            object=self.object,
            image=images.add(self.image_url, (*loc, "image_url")),
            spatial_refs=spatial_refs(self.spatial_refs),
        )


class DetectFields(Body):
    """What a detect request is, on either surface."""

    object: Words
    image_url: Text
    settings: SettingsBody | None = None

    def to_contract(self, images: ImageUrls, loc: Loc) -> DetectRequest:
        return DetectRequest(
            object=self.object, image=images.add(self.image_url, (*loc, "image_url"))
        )


class QueryBody(QueryFields):
    skill: Literal["query"]


class PointBody(PointFields):
    skill: Literal["point"]
    reasoning: NoReasoning = None


class DetectBody(DetectFields):
    skill: Literal["detect"]
    reasoning: NoReasoning = None
    spatial_refs: Annotated[SpatialRefs | None, AfterValidator(_refuse_refs)] = None


def skill_tag(value: Any) -> str | None:
    """Return which body a request is to be read as."""
    skill: Any = (
        cast("dict[str, Any]", value).get("skill")
        if isinstance(value, dict)
        else getattr(value, "skill", None)
    )
    return UNION_TAG + skill if skill in ("query", "point", "detect") else None


UNKNOWN_SKILL = Discriminator(
    skill_tag,
    custom_error_type="unknown_skill",
    custom_error_message="The skill should be query, point or detect",
)

TunableBody = QueryBody | PointBody | DetectBody
SkillRequestBody = Annotated[
    Annotated[QueryBody, Tag("~query")]
    | Annotated[PointBody, Tag("~point")]
    | Annotated[DetectBody, Tag("~detect")],
    UNKNOWN_SKILL,
]


def tunable_request(body: TunableBody, images: ImageUrls, loc: Loc) -> TunableRequest:
    """Return a skill request as the contract has it, its picture collected."""
    return body.to_contract(images, loc)
