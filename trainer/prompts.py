"""From a request and its pictures to the row that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from contract.skills import ChatRequest, Pixels, Skill, SkillRequest
from trainer.batching import Row
from trainer.skills import SKILLS
from trainer.skills.base import Language
from trainer.skills.chat import further_pictures


def prompt_row(request: SkillRequest, images: Sequence[Pixels], language: Language) -> Row:
    """BOS, pictures and prompt of a request, without an answer.

    Args:
        images: Those that the request names by index.
    """
    row = Row(
        image=None if request.image is None else images[request.image].digest,
        prompt=tuple(SKILLS[Skill(request.skill)].prompt(request, language)),
    )
    if not isinstance(request, ChatRequest):
        return row
    placed = further_pictures(request, language)
    return replace(row, pictures=tuple((index, images[image].digest) for index, image in placed))
