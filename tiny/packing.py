"""Several tasks about one picture in one sequence: BOS and image once, each task a branch behind.

All tasks stand at positions from P on, see the picture and themselves, and not one another, so each
is trained exactly as if it stood alone.

Letters: B pictures, T positions, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.skills import (
    Box,
    CaptionRequest,
    DetectRequest,
    DetectTarget,
    Grounding,
    Point,
    PointRequest,
    PointTarget,
    QueryRequest,
    QueryTarget,
    Reasoning,
    Skill,
)
from tiny.tasks import CaptionTask, DetectTask, PointTask, QueryTask, Task
from trainer.sequence import Action, Element
from trainer.skills import SKILLS
from trainer.skills.base import Language, from_wire

Branch = tuple[list[Element], tuple[Action, ...]]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A batch of packed sequences without their pictures, which fill slots 1 to P - 1.

    Attributes:
        ids_BT: Token ids; 0 in image slots and padding.
        coord_at, coord_values: Flat slots of coordinates, and their values.
        size_at, size_values: Flat slots of sizes, and (width, height).
        positions_BT: As if each branch stood alone.
        mask_BTT: True where a position may look.
        action_at: [A] flat slot whose hidden state each action is drawn from.
        tokens_A: The token of each action.
        is_free_A: The token is drawn from the whole vocabulary.
        is_choice_A: The token is drawn from {coordinate, end}.
        coord_action, coord_bins: Actions that carry a coordinate, and its bin.
        size_action, size_bins: Actions that carry a size, and (width, height) bins.
    """

    ids_BT: Tensor
    coord_at: Tensor
    coord_values: Tensor
    size_at: Tensor
    size_values: Tensor
    positions_BT: Tensor
    mask_BTT: Tensor
    action_at: Tensor
    tokens_A: Tensor
    is_free_A: Tensor
    is_choice_A: Tensor
    coord_action: Tensor
    coord_bins: Tensor
    size_action: Tensor
    size_bins: Tensor


def branch(task: Task, language: Language) -> Branch:
    """The prompt and the actions of one task, by the rules of its skill."""
    request, target = as_contract(task)
    skill = SKILLS[Skill(request.skill)]
    wire = skill.wire_from_target(request, target, language)
    is_reasoning = getattr(request, "reasoning", False)
    actions = from_wire(
        wire, skill.grammar(request, language), is_reasoning=is_reasoning, language=language
    )
    assert actions is not None, f"a target does not fit its own grammar: {task}"
    return skill.prompt(request, language), actions


def pack(rows: Sequence[Sequence[Branch]], *, prefix_len: int, language: Language) -> Pack:
    """Lay out the branches of each picture behind `prefix_len` slots of BOS and image."""
    lengths = [
        prefix_len + sum(len(prompt) + len(actions) - 1 for prompt, actions in row) for row in rows
    ]
    num_rows, length = len(rows), max(lengths)
    ids = torch.zeros(num_rows, length, dtype=torch.long)
    positions = torch.zeros(num_rows, length, dtype=torch.long)
    segment = torch.full((num_rows, length), -1, dtype=torch.long)
    positions[:, :prefix_len] = torch.arange(prefix_len)
    segment[:, :prefix_len] = 0
    coords: list[tuple[int, float]] = []
    sizes: list[tuple[int, float, float]] = []
    drawn: list[tuple[int, Action]] = []
    for b, row in enumerate(rows):
        at = prefix_len
        for number, (prompt, actions) in enumerate(row, start=1):
            fed = [a.element(coord_divisor=language.coord_divisor) for a in actions[:-1]]
            elements = [*prompt, *fed]
            end = at + len(elements)
            ids[b, at:end] = torch.tensor([e.token for e in elements])
            positions[b, at:end] = torch.arange(prefix_len, prefix_len + len(elements))
            segment[b, at:end] = number
            for slot, element in enumerate(elements, start=b * length + at):
                if len(element.values) == 1:
                    coords.append((slot, element.values[0]))
                elif len(element.values) == 2:
                    sizes.append((slot, element.values[0], element.values[1]))
            first = b * length + at + len(prompt) - 1
            drawn += [(first + t, action) for t, action in enumerate(actions)]
            at = end
    coord_actions = [(i, a.bins[0]) for i, (_, a) in enumerate(drawn) if len(a.bins) == 1]
    size_actions = [(i, a.bins) for i, (_, a) in enumerate(drawn) if len(a.bins) == 2]
    return Pack(
        ids_BT=ids,
        coord_at=torch.tensor([slot for slot, _ in coords], dtype=torch.long),
        coord_values=torch.tensor([value for _, value in coords]),
        size_at=torch.tensor([slot for slot, _, _ in sizes], dtype=torch.long),
        size_values=torch.tensor([[w, h] for _, w, h in sizes]).view(-1, 2),
        positions_BT=positions,
        mask_BTT=_mask(segment),
        action_at=torch.tensor([slot for slot, _ in drawn]),
        tokens_A=torch.tensor([action.token for _, action in drawn]),
        is_free_A=torch.tensor([action.mask.allowed is None for _, action in drawn]),
        is_choice_A=torch.tensor([len(action.mask.allowed or ()) == 2 for _, action in drawn]),
        coord_action=torch.tensor([i for i, _ in coord_actions], dtype=torch.long),
        coord_bins=torch.tensor([b for _, b in coord_actions], dtype=torch.long),
        size_action=torch.tensor([i for i, _ in size_actions], dtype=torch.long),
        size_bins=torch.tensor([b for _, b in size_actions], dtype=torch.long).view(-1, 2),
    )


def _mask(segment_BT: Tensor) -> Tensor:
    """Prefix (segment 0) sees itself both ways; a branch sees the prefix and its own past."""
    same = segment_BT[:, :, None] == segment_BT[:, None, :]
    slots = torch.arange(segment_BT.shape[1])
    is_past = slots[None, :] <= slots[:, None]
    in_prefix = (segment_BT == 0)[:, None, :]
    is_prefix_row = (segment_BT == 0)[:, :, None]
    return (same & (is_past | is_prefix_row)) | (in_prefix & ~is_prefix_row)


def as_contract(task: Task) -> tuple[object, object]:
    if isinstance(task, QueryTask):
        request = QueryRequest(
            question=task.question,
            image=0,
            reasoning=task.reasoning is not None,
            spatial_refs=task.spatial_refs,
        )
        return request, QueryTarget(answer=task.answer, reasoning=_reasoning(task))
    if isinstance(task, PointTask):
        points = tuple(Point(x=x, y=y) for x, y in task.points)
        return PointRequest(object=task.object, image=0), PointTarget(points=points)
    if isinstance(task, DetectTask):
        boxes = tuple(Box(x_min=a, y_min=b, x_max=c, y_max=d) for a, b, c, d in task.boxes)
        return DetectRequest(object=task.object, image=0), DetectTarget(boxes=boxes)
    assert isinstance(task, CaptionTask)
    return CaptionRequest(image=0, length=task.length), task.caption


def _reasoning(task: QueryTask) -> Reasoning | None:
    if task.reasoning is None:
        return None
    text, grounding = "", []
    for chunk in task.reasoning:
        grounding.append(
            Grounding(start_idx=len(text), end_idx=len(text) + len(chunk.text), points=chunk.points)
        )
        text += chunk.text
    return Reasoning(text=text, grounding=tuple(grounding))
