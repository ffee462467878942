"""The caption skill: a description of a picture in one of three lengths; inference only."""

from __future__ import annotations

from typing import Any

from contract.skills import CaptionRequest, GroundTruth
from trainer.sequence import Element, text_elements
from trainer.skills.base import Language, TextGrammar, WireTrace
from trainer.skills.query import text_of


class CaptionSkill:
    def prompt(self, request: CaptionRequest, language: Language) -> list[Element]:
        return text_elements(getattr(language.ids.templates.caption, request.length))

    def grammar(self, request: CaptionRequest, language: Language) -> TextGrammar:
        return TextGrammar(language, is_reasoning=False)

    def output(
        self, request: CaptionRequest, wire: WireTrace, language: Language
    ) -> dict[str, Any]:
        return {"caption": text_of(wire.answer_tokens, language).strip()}

    def wire_from_output(
        self, request: CaptionRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        caption = output.get("caption")
        if not isinstance(caption, str):
            return None
        return self.wire_from_target(request, caption, language)

    def wire_from_target(
        self, request: CaptionRequest, target: str, language: Language
    ) -> WireTrace:
        return WireTrace(answer_tokens=tuple(language.tokenizer.encode(target)))

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        raise ValueError("caption has no ground truth")
