"""The segment skill: the outline of a named object as an SVG path inside of its box.

The model draws the box first (x, y, then width and height), then the path as text: commands, whole
numbers and minus signs, one token each. Inference only. Source: model-facts.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from contract.skills import GroundTruth, SegmentRequest
from trainer.sequence import Element, spatial_elements, text_elements
from trainer.skills.base import Language, TextGrammar, WireTrace
from trainer.skills.detect import box_of

VIEW_BOX = 960
"""Numbers of a path count from 0 to this along each side of the box."""

DECIMALS = 3
LAST_RESERVED_ID = 20
"""Ids up to this are marks and never part of a path."""


class SegmentSkill:
    def prompt(self, request: SegmentRequest, language: Language) -> list[Element]:
        ids = language.ids
        template = ids.templates.segment
        assert template is not None, "asked only of models that have it"
        return [
            *text_elements(template.prefix),
            *spatial_elements(request.spatial_refs, coord_id=ids.coord_id, size_id=ids.size_id),
            *text_elements(language.tokenizer.encode(request.object)),
            *text_elements(template.suffix),
        ]

    def grammar(self, request: SegmentRequest, language: Language) -> TextGrammar:
        return TextGrammar(language, is_reasoning=False)

    def output(
        self, request: SegmentRequest, wire: WireTrace, language: Language
    ) -> dict[str, Any]:
        if len(wire.coords) < 2 or not wire.sizes:
            return {"path": "", "bbox": None}
        x, y = (language.coord(index) for index in wire.coords[:2])
        width, height = (language.size(index) for index in wire.sizes[0])
        return {
            "path": path_of(wire.answer_tokens, language),
            "bbox": box_of(x, y, width, height),
        }

    def wire_from_output(
        self, request: SegmentRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        return None

    def wire_from_target(
        self, request: SegmentRequest, target: object, language: Language
    ) -> WireTrace:
        raise ValueError("segment cannot be trained")

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        raise ValueError("segment has no ground truth")


def path_of(tokens: Sequence[int], language: Language) -> str:
    """The SVG path of an answer, such as `M 0 0.76 L 1 0.25 Z`, in units of its box."""
    return " ".join(_words(tokens, language))


def _words(tokens: Sequence[int], language: Language) -> Iterator[str]:
    """Each token by itself: whole numbers are scaled, a minus sign turns the next number."""
    is_negative = False
    for token in tokens:
        text = language.tokenizer.decode([token]).strip() if token > LAST_RESERVED_ID else ""
        if text == "-":
            is_negative = True
        elif text.isascii() and text.isdigit():
            value = int(text) / VIEW_BOX
            yield _number(-value if is_negative else value)
            is_negative = False
        elif text:
            yield text


def _number(value: float) -> str:
    """Three decimals at most, without zeros at the end."""
    text = f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
