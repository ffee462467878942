"""What can be asked of the model, how it is sampled, and what it answers; tagged by skill.

Coordinates are 0-1, x to the right, y down. Requests name their picture by its index in the list of
images that travels beside the command, so that no picture is ever part of a JSON header.
Source: http-api.md sections 8 and 10.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class Skill(StrEnum):
    """The kinds of question; each has its own prompt, grammar and output."""

    QUERY = "query"
    POINT = "point"
    DETECT = "detect"
    CAPTION = "caption"
    SEGMENT = "segment"
    CHAT = "chat"


class FinishReason(StrEnum):
    """Why a rollout ended: it drew the end token, or it met a limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """One decoded picture: `data` holds height x width x 3 bytes, RGB, row by row.

    `digest` is the SHA-256 (hex) of the file as it was sent, in base64; by it equal pictures are
    recognised.
    """

    height: int
    width: int
    digest: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Point:
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Box:
    x_min: float
    y_min: float
    x_max: float
    y_max: float


SpatialRef = tuple[float, ...]
"""Two numbers are a point (x, y); four are a box (x_min, y_min, x_max, y_max)."""


@dataclass(frozen=True, kw_only=True)
class QueryRequest:
    question: str
    image: int | None = None
    reasoning: bool = False
    spatial_refs: tuple[SpatialRef, ...] = ()
    skill: Literal["query"] = "query"


@dataclass(frozen=True, kw_only=True)
class PointRequest:
    object: str
    image: int
    spatial_refs: tuple[SpatialRef, ...] = ()
    skill: Literal["point"] = "point"


@dataclass(frozen=True, kw_only=True)
class DetectRequest:
    object: str
    image: int
    skill: Literal["detect"] = "detect"


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    image: int
    length: Literal["short", "normal", "long"] = "normal"
    skill: Literal["caption"] = "caption"


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    object: str
    image: int
    spatial_refs: tuple[SpatialRef, ...] = ()
    skill: Literal["segment"] = "segment"


@dataclass(frozen=True, kw_only=True)
class ChatTurn:
    """What a user said, beside which pictures, and what was answered; None asks for the answer."""

    text: str
    images: tuple[int, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation of at least one turn; the last has no answer, all others have one."""

    turns: tuple[ChatTurn, ...]
    system: str = ""
    reasoning: bool = False
    skill: Literal["chat"] = "chat"

    @property
    def image(self) -> int | None:
        """The picture at the very beginning, as other requests have one; further ones follow."""
        images = self.turns[0].images
        return images[0] if images else None


SkillRequest = (
    QueryRequest | PointRequest | DetectRequest | CaptionRequest | SegmentRequest | ChatRequest
)
TunableRequest = QueryRequest | PointRequest | DetectRequest


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample, with every default and cap of http-api.md 8.3 already applied.

    Attributes:
        temperature: >= 0; below 1e-4 is greedy.
        top_p: In (0, 1].
        max_tokens: The most tokens of a text answer, thinking included; query, caption, segment
            and chat use it.
        max_objects: The most objects of a point or detect answer, at least 1; the others ignore it.
    """

    temperature: float
    top_p: float = 1.0
    max_tokens: int = 128
    max_objects: int = 50


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """What a reward is computed against: points or boxes, exactly one of them not None."""

    points: tuple[Point, ...] | None = None
    boxes: tuple[Box, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """A stretch of the reasoning text (character positions) and the points it speaks of."""

    start_idx: int
    end_idx: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    text: str
    grounding: tuple[Grounding, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QueryTarget:
    answer: str
    reasoning: Reasoning | None = None
    skill: Literal["query"] = "query"


@dataclass(frozen=True, kw_only=True)
class PointTarget:
    """Points in the order to be learned; a box in `boxes` stands for its centre."""

    points: tuple[Point, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    skill: Literal["point"] = "point"


@dataclass(frozen=True, kw_only=True)
class DetectTarget:
    boxes: tuple[Box, ...]
    skill: Literal["detect"] = "detect"


Target = QueryTarget | PointTarget | DetectTarget


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled answer as it goes out, field by field http-api.md 8.6.

    `output` is the plain JSON value of the skill's output; `sizes` holds (width, height) pairs.
    """

    skill: Skill
    finish_reason: FinishReason
    output: dict[str, Any]
    answer_tokens: tuple[int, ...]
    thinking_tokens: tuple[int, ...]
    has_answer_separator: bool
    coords: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    policy_step: int
    logprobs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReturnedRollout:
    """A rollout on its way back, as the client kept, edited or made it up; absent fields are None.

    Only types are certain here. Whether ids, bins and lengths fit together is judged where the
    vocabulary is known, by the trainer (http-api.md 10.3).
    """

    skill: Skill | None = None
    finish_reason: FinishReason | None = None
    output: dict[str, Any] | None = None
    answer_tokens: tuple[int, ...] | None = None
    thinking_tokens: tuple[int, ...] | None = None
    has_answer_separator: bool | None = None
    coords: tuple[int, ...] | None = None
    sizes: tuple[tuple[int, ...], ...] | None = None
    policy_step: int | None = None
    logprobs: dict[str, Any] | None = None
