"""The skills by name; adding one means one file here and one line in this table."""

from __future__ import annotations

from typing import Any

from contract.skills import Skill
from trainer.skills.base import SkillRules
from trainer.skills.caption import CaptionSkill
from trainer.skills.chat import ChatSkill
from trainer.skills.detect import DetectSkill
from trainer.skills.point import PointSkill
from trainer.skills.query import QuerySkill
from trainer.skills.segment import SegmentSkill

SKILLS: dict[Skill, SkillRules[Any, Any]] = {
    Skill.QUERY: QuerySkill(),
    Skill.POINT: PointSkill(),
    Skill.DETECT: DetectSkill(),
    Skill.CAPTION: CaptionSkill(),
    Skill.SEGMENT: SegmentSkill(),
    Skill.CHAT: ChatSkill(),
}
TUNABLE_SKILLS = (Skill.QUERY, Skill.POINT, Skill.DETECT)
