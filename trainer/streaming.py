"""Streamed answers: what the text of an answer, and of its thought, gained with its last token.

Chunks never split a character and begin without whitespace; spaces at the end are held back until
something follows them. Joined, the chunks are the text of the finished answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contract.engine import AnswerDelta
from contract.skills import Skill, SkillRequest
from trainer.drawing import Rollout
from trainer.rollouts import is_reasoning
from trainer.sequence import Action
from trainer.skills import SKILLS
from trainer.skills.base import Language, to_wire

STREAMED_TEXT = {
    Skill.QUERY: "answer",
    Skill.CHAT: "answer",
    Skill.CAPTION: "caption",
    Skill.SEGMENT: "path",
}
"""The part of an output that grows; points and boxes do not."""

INCOMPLETE = "\ufffd"
"""What the bytes of a character decode to before its last one has come."""


class AnswerStream:
    """Tells what one growing answer gains."""

    def __init__(
        self, request: SkillRequest, language: Language, tell: Callable[[AnswerDelta], None]
    ):
        self._request = request
        self._skill = Skill(request.skill)
        self._language = language
        self._tell = tell
        self._told = ""
        self._told_reasoning = ""
        self._has_told_box = False

    def grow(self, rollout: Rollout) -> None:
        """Tell what is new since the last call, as far as it is certain."""
        if self._skill in STREAMED_TEXT:
            self._tell_rest(rollout.actions, is_finished=rollout.finish_reason is not None)

    def _tell_rest(self, actions: Sequence[Action], *, is_finished: bool) -> None:
        wire = to_wire(actions, is_reasoning=is_reasoning(self._request), language=self._language)
        output = SKILLS[self._skill].output(self._request, wire, self._language)
        if output.get("bbox") is not None and not self._has_told_box:
            self._has_told_box = True
            self._tell(AnswerDelta(bbox=output["bbox"]))
        if "reasoning" in output:
            has_thought = is_finished or wire.has_answer_separator
            gained = _gained(output["reasoning"]["text"], self._told_reasoning, has_thought)
            if gained:
                self._told_reasoning += gained
                self._tell(AnswerDelta(reasoning=gained))
        gained = _gained(output[STREAMED_TEXT[self._skill]], self._told, is_finished)
        if gained:
            self._told += gained
            self._tell(AnswerDelta(text=gained))


def _gained(text: str, told: str, is_finished: bool) -> str:
    """What a text has beyond what was told of it, as far as it is certain."""
    if not is_finished:
        text = text.rstrip(INCOMPLETE).rstrip()
    return text[len(told) :] if text.startswith(told) else ""
