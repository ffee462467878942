"""The point skill: where the named objects are, one point each (x, then y)."""

from __future__ import annotations

from typing import Any

from contract.skills import GroundTruth, Point, PointRequest, PointTarget
from trainer.geometry import points_in_boxes_reward, points_reward
from trainer.model.bins import coord_bin
from trainer.sequence import Element, spatial_elements, text_elements
from trainer.skills.base import Language, ObjectsGrammar, WireTrace, read_coordinate


class PointSkill:
    def prompt(self, request: PointRequest, language: Language) -> list[Element]:
        ids = language.ids
        return [
            *text_elements(ids.templates.point.prefix),
            *spatial_elements(request.spatial_refs, coord_id=ids.coord_id, size_id=ids.size_id),
            *text_elements(language.tokenizer.encode(" " + request.object)),
            *text_elements(ids.templates.point.suffix),
        ]

    def grammar(self, request: PointRequest, language: Language) -> ObjectsGrammar:
        coord_id = language.ids.coord_id
        return ObjectsGrammar((coord_id, coord_id), language.ids.eos_id)

    def output(self, request: PointRequest, wire: WireTrace, language: Language) -> dict[str, Any]:
        values = [language.coord(b) for b in wire.coords]
        points = zip(values[::2], values[1::2], strict=True)
        return {"points": [{"x": x, "y": y} for x, y in points]}

    def wire_from_output(
        self, request: PointRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        try:
            points = tuple(
                Point(x=read_coordinate(p["x"]), y=read_coordinate(p["y"]))
                for p in output["points"]
            )
        except (KeyError, TypeError, ValueError):
            return None
        return self.wire_from_target(request, PointTarget(points=points), language)

    def wire_from_target(
        self, request: PointRequest, target: PointTarget, language: Language
    ) -> WireTrace:
        if target.points is not None:
            centres = [(p.x, p.y) for p in target.points]
        else:
            centres = [
                ((b.x_min + b.x_max) / 2, (b.y_min + b.y_max) / 2) for b in target.boxes or ()
            ]
        return WireTrace(
            answer_tokens=(language.ids.coord_id,) * (2 * len(centres)),
            coords=tuple(coord_bin(value) for centre in centres for value in centre),
        )

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        predicted = [(p["x"], p["y"]) for p in output["points"]]
        if truth.points is not None:
            return points_reward(predicted, [(p.x, p.y) for p in truth.points])
        boxes = [(b.x_min, b.y_min, b.x_max, b.y_max) for b in truth.boxes or ()]
        return points_in_boxes_reward(predicted, boxes)
