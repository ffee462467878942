"""Which sampling settings hold, from what was sent; http-api.md 8.3 in one pure function."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from contract.skills import Settings, Skill

TOKENS_PER_POINT = 2
TOKENS_PER_BOX = 3
DEFAULT_BOXES = 50


class Purpose(StrEnum):
    """Tuning explores and inference answers, hence two sets of defaults."""

    TUNING = "tuning"
    INFERENCE = "inference"


@dataclass(frozen=True, kw_only=True)
class SentSettings:
    """The settings of a request, None where nothing was sent."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_objects: int | None = None


def resolve_settings(
    skill: Skill, sent: SentSettings, *, purpose: Purpose, max_generation_tokens: int
) -> Settings:
    """Apply defaults and caps.

    The object cap of detect is `max_objects` (50), and `max_tokens // 3` if that was sent; of point
    it is `max_tokens // 2` with its default, and `max_objects` if that was sent. At least one.
    """
    is_text = skill in (Skill.QUERY, Skill.CAPTION, Skill.CHAT)
    if purpose is Purpose.TUNING:
        temperature, top_p, max_tokens = 1.0, 1.0, 256 if skill is Skill.DETECT else 128
    else:
        temperature, top_p, max_tokens = (0.2, 0.9, 768) if is_text else (0.0, 1.0, 768)
    if sent.temperature is not None:
        temperature = sent.temperature
    if sent.top_p is not None:
        top_p = sent.top_p
    if sent.max_tokens is not None:
        max_tokens = sent.max_tokens
    max_tokens = min(max_tokens, max_generation_tokens)
    return Settings(
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        max_objects=_max_objects(skill, sent, max_tokens, max_generation_tokens),
    )


def _max_objects(
    skill: Skill, sent: SentSettings, max_tokens: int, max_generation_tokens: int
) -> int:
    if skill is Skill.POINT:
        cap = max_tokens // TOKENS_PER_POINT
        wish = cap if sent.max_objects is None else sent.max_objects
    else:
        tokens = max_generation_tokens if sent.max_tokens is None else max_tokens
        cap = tokens // TOKENS_PER_BOX
        wish = DEFAULT_BOXES if sent.max_objects is None else sent.max_objects
    return max(1, min(wish, cap))
