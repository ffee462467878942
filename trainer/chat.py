"""A conversation as one prompt: each user turn is a query block, several pictures are allowed.

    BOS  {pictures} prefix text answer-mark answer-text  {pictures} prefix text opener

Nothing ends a turn but the next one's prefix. A system text stands in front of the first user text.
Chat has no trained form of its own; this is the one of the makers' service.
Source: model-facts.md sections 3.4 and 5.

Letters: T positions, P image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.batching import embed_elements
from trainer.model.moondream import Moondream
from trainer.model.text import block_mask
from trainer.sequence import Element, text_elements
from trainer.skills.base import Language


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All positions of one picture, by its digest."""

    digest: str


Part = Element | Picture


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a user said, with which pictures, and what was answered; None asks for the answer."""

    text: str
    pictures: tuple[str, ...] = ()
    answer: str | None = None


def chat_prompt(
    turns: Sequence[Turn], language: Language, *, system: str = "", reasoning: bool = False
) -> list[Part]:
    """What follows BOS.

    Args:
        turns: At least one; the last has no answer, all others have one.
        system: Goes in front of the first user text.
        reasoning: Whether the last turn asks for a thought first.

    Raises:
        ValueError: A turn in the middle has no answer, or the last has one.
    """
    if not turns or [turn.answer is None for turn in turns] != [False] * (len(turns) - 1) + [True]:
        raise ValueError("every turn but the last has an answer, and the last has none")
    query, encode = language.ids.templates.query, language.tokenizer.encode
    parts: list[Part] = []
    for index, turn in enumerate(turns):
        text = f"{system}\n\n{turn.text}" if system and index == 0 else turn.text
        opener = (
            query.reasoning_prefix if turn.answer is None and reasoning else query.answer_prefix
        )
        parts += [Picture(digest=digest) for digest in turn.pictures]
        parts += text_elements([*query.prefix, *encode(text), *opener])
        if turn.answer is not None:
            parts += text_elements(encode(turn.answer))
    return parts


@torch.no_grad()
def embed_prompt(
    model: Moondream, parts: Sequence[Part], features: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """BOS and the parts, as the text model reads them.

    Args:
        features: [P, D] image tokens by digest.

    Returns:
        embeds_1TD: In the model's dtype.
        mask_1TT: Each picture sees itself in both directions, BOS with it where it comes at once.
    """
    bos = Element(token=model.config.tokenizer.bos_id)
    pieces: list[Tensor] = []
    blocks: list[tuple[int, int]] = []
    length = 0
    for part in (bos, *parts):
        if isinstance(part, Picture):
            piece = features[part.digest].to(model.text.wte)
            start = 0 if length == 1 else length
            blocks.append((start, length + len(piece)))
        else:
            piece = embed_elements(model, [part])[0]
        pieces.append(piece)
        length += len(piece)
    embeds_1TD = torch.cat(pieces)[None]
    return embeds_1TD, block_mask(length, blocks, device=embeds_1TD.device)
