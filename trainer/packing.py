"""Sequences to be scored become packs: pictures, prompts and answers, each computed once.

Rows with the same picture share it, those with the same prompt share that too, and equal answers
are one. A step is split into packs by a budget of positions; a picture and its prompts stay
together where they fit.

Letters: T positions of a pack, E ends (see `trainer.model.tree`), A actions of all rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.batching import Row, embed_stream
from trainer.model.moondream import Moondream
from trainer.model.tree import PromptShape, RootShape, Tree
from trainer.model.upload import uploaded
from trainer.sequence import Action, Element

Fed = tuple[Element, ...]

_Piece = tuple[int, int]
"""The number of a root, prompt or answer, and its positions."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What one pass over the text model reads.

    Attributes:
        embeds_1TD: In the model's dtype.
        tree: Who sees whom.
        actions: All actions, row by row.
        row_A: [A] the row of each action.
        end_A: [A] the end whose hidden state each action is drawn from.
    """

    embeds_1TD: Tensor
    tree: Tree
    actions: tuple[Action, ...]
    row_A: Tensor
    end_A: Tensor


def pack(model: Moondream, rows: Sequence[Row], features: Mapping[str, Tensor]) -> Pack:
    """Lay rows out as one stream and embed it.

    Args:
        rows: Each with at least one action.
        features: [I, D] image tokens by digest.
    """
    device = model.text.wte.device
    num_image_tokens = model.config.vision.num_image_tokens
    forest = _Forest(rows, coord_divisor=model.config.region.coord_divisor)
    tree = Tree(forest.shapes(num_image_tokens), device=device)
    end_of = forest.first_ends()
    row_of: list[int] = []
    ends: list[int] = []
    for index, (row, place) in enumerate(zip(rows, forest.places, strict=True)):
        prompt_end, answer_end = end_of[place]
        row_of += [index] * len(row.actions)
        ends += [prompt_end, *range(answer_end, answer_end + len(row.actions) - 1)]
    pictures = {
        start + 1: features[image]
        for start, image in zip(tree.starts(), forest.roots, strict=True)
        if image is not None
    }
    return Pack(
        embeds_1TD=embed_stream(model, forest.stream(num_image_tokens), pictures),
        tree=tree,
        actions=tuple(action for row in rows for action in row.actions),
        row_A=uploaded(row_of, device, torch.long),
        end_A=uploaded(ends, device, torch.long),
    )


def split_into_packs(
    rows: Sequence[Row], *, num_image_tokens: int, coord_divisor: int, max_positions: int
) -> Iterator[list[int]]:
    """Split rows into packs of at most so many positions.

    Rows of a picture go together where they fit into one pack, else those of a prompt; a row longer
    than the budget gets a pack of its own. The split depends on the rows alone.

    Yields:
        Indexes of rows.
    """
    pieces = _pieces(rows, num_image_tokens=num_image_tokens, coord_divisor=coord_divisor)
    by_picture: dict[_Piece, dict[_Piece, list[int]]] = {}
    for index, (picture, prompt, _) in enumerate(pieces):
        by_picture.setdefault(picture, {}).setdefault(prompt, []).append(index)

    def needed(indexes: Sequence[int]) -> set[_Piece]:
        return {piece for index in indexes for piece in pieces[index]}

    indexes: list[int] = []
    taken: set[_Piece] = set()
    room = max_positions
    for prompts in by_picture.values():
        units = [[index for unit in prompts.values() for index in unit]]
        if _num_positions(needed(units[0])) > max_positions:
            units = list(prompts.values())
        for unit in units:
            is_whole = _num_positions(needed(unit)) <= max_positions
            for part in [unit] if is_whole else [[index] for index in unit]:
                new = needed(part) - taken
                if indexes and _num_positions(new) > room:
                    yield indexes
                    indexes, taken, room = [], set(), max_positions
                    new = needed(part)
                indexes += part
                taken |= new
                room -= _num_positions(new)
    if indexes:
        yield indexes


def _pieces(
    rows: Sequence[Row], *, num_image_tokens: int, coord_divisor: int
) -> list[tuple[_Piece, _Piece, _Piece]]:
    """Root, prompt and answer of each row; what rows share has one number."""
    numbers: dict[object, int] = {}
    pieces: list[tuple[_Piece, _Piece, _Piece]] = []
    for row in rows:
        fed = row.fed(coord_divisor=coord_divisor)
        root = numbers.setdefault((row.image,), len(numbers))
        prompt = numbers.setdefault((root, tuple(row.prompt)), len(numbers))
        answer = numbers.setdefault((prompt, fed), len(numbers))
        num_before = 1 if row.image is None else 1 + num_image_tokens
        pieces.append(((root, num_before), (prompt, len(row.prompt)), (answer, len(fed))))
    return pieces


def _num_positions(pieces: Iterable[_Piece]) -> int:
    return sum(size for _, size in pieces)


class _Forest:
    """Rows by picture, prompt and answer, in the order of their first occurrence.

    Attributes:
        roots: Pictures; None stands for sequences without one.
        places: Of each row: its picture, its prompt, and what its actions feed.
    """

    def __init__(self, rows: Sequence[Row], *, coord_divisor: int):
        self.roots: dict[str | None, dict[Fed, dict[Fed, None]]] = {}
        self.places: list[tuple[str | None, Fed, Fed]] = []
        for row in rows:
            place = (row.image, tuple(row.prompt), row.fed(coord_divisor=coord_divisor))
            answers = self.roots.setdefault(place[0], {}).setdefault(place[1], {})
            answers.setdefault(place[2])
            self.places.append(place)

    def shapes(self, num_image_tokens: int) -> list[RootShape]:
        return [
            RootShape(
                length=1 if image is None else 1 + num_image_tokens,
                prompts=tuple(
                    PromptShape(length=len(prompt), answers=tuple(len(a) for a in answers if a))
                    for prompt, answers in prompts.items()
                ),
            )
            for image, prompts in self.roots.items()
        ]

    def first_ends(self) -> dict[tuple[str | None, Fed, Fed], tuple[int, int]]:
        """Of each place: the end of its prompt, and the first end of its answer."""
        found: dict[tuple[str | None, Fed, Fed], tuple[int, int]] = {}
        num_ends = 0
        for image, prompts in self.roots.items():
            for prompt, answers in prompts.items():
                prompt_end = num_ends
                num_ends += 1
                for answer in answers:
                    found[image, prompt, answer] = prompt_end, num_ends
                    num_ends += len(answer)
        return found

    def stream(self, num_image_tokens: int) -> list[Element | None]:
        """What stands at each position; None at BOS and in pictures."""
        stream: list[Element | None] = []
        for image, prompts in self.roots.items():
            stream += [None] * (1 if image is None else 1 + num_image_tokens)
            for prompt, answers in prompts.items():
                stream += prompt
                for answer in answers:
                    stream += answer
        return stream
