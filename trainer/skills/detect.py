"""The detect skill: a box around every named object (centre x, centre y, then width and height)."""

from __future__ import annotations

from typing import Any

from contract.skills import Box, DetectRequest, DetectTarget, GroundTruth
from trainer.geometry import detect_reward
from trainer.model.bins import coord_bin, size_bin
from trainer.sequence import Element, text_elements
from trainer.skills.base import Language, ObjectsGrammar, WireTrace, read_coordinate

CORNERS = ("x_min", "y_min", "x_max", "y_max")


class DetectSkill:
    def prompt(self, request: DetectRequest, language: Language) -> list[Element]:
        template = language.ids.templates.detect
        return text_elements(
            [*template.prefix, *language.tokenizer.encode(" " + request.object), *template.suffix]
        )

    def grammar(self, request: DetectRequest, language: Language) -> ObjectsGrammar:
        ids = language.ids
        return ObjectsGrammar((ids.coord_id, ids.coord_id, ids.size_id), ids.eos_id)

    def output(self, request: DetectRequest, wire: WireTrace, language: Language) -> dict[str, Any]:
        values = [language.coord(b) for b in wire.coords]
        centres = zip(values[::2], values[1::2], strict=True)
        boxes = [
            box_of(x, y, language.size(width), language.size(height))
            for (x, y), (width, height) in zip(centres, wire.sizes, strict=True)
        ]
        return {"objects": boxes}

    def wire_from_output(
        self, request: DetectRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        listed: Any = output.get("objects", output.get("boxes"))
        try:
            boxes = tuple(
                Box(**{name: read_coordinate(box[name]) for name in CORNERS}) for box in listed
            )
        except (KeyError, TypeError, ValueError):
            return None
        if any(box.x_min > box.x_max or box.y_min > box.y_max for box in boxes):
            return None
        return self.wire_from_target(request, DetectTarget(boxes=boxes), language)

    def wire_from_target(
        self, request: DetectRequest, target: DetectTarget, language: Language
    ) -> WireTrace:
        coords: list[int] = []
        sizes: list[tuple[int, int]] = []
        for box in target.boxes:
            coords.append(coord_bin((box.x_min + box.x_max) / 2))
            coords.append(coord_bin((box.y_min + box.y_max) / 2))
            sizes.append((size_bin(box.x_max - box.x_min), size_bin(box.y_max - box.y_min)))
        ids = language.ids
        return WireTrace(
            answer_tokens=(ids.coord_id, ids.coord_id, ids.size_id) * len(sizes),
            coords=tuple(coords),
            sizes=tuple(sizes),
        )

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        predicted = [tuple(box[name] for name in CORNERS) for box in output["objects"]]
        boxes = [(b.x_min, b.y_min, b.x_max, b.y_max) for b in truth.boxes or ()]
        return detect_reward(predicted, boxes)


def box_of(x: float, y: float, width: float, height: float) -> dict[str, float]:
    """Centre plus and minus half the size, each edge clamped to 0-1."""
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return {name: min(max(edge, 0.0), 1.0) for name, edge in zip(CORNERS, edges, strict=True)}
