"""The chat skill: a conversation in turns, each of which is a query block; inference only.

    BOS  {pictures} prefix text answer-mark answer-text  {pictures} prefix text opener

Nothing ends a turn but the next one's prefix. A system text stands in front of the first user text.
Chat has no trained form of its own; this is the one of the makers' service. With one turn it is a
query. Source: model-facts.md sections 3.4 and 5.
"""

from __future__ import annotations

from typing import Any

from contract.skills import ChatRequest, ChatTurn, GroundTruth
from trainer.sequence import Element, text_elements
from trainer.skills.base import Language, TextGrammar, WireTrace
from trainer.skills.query import answer_output


class ChatSkill:
    def prompt(self, request: ChatRequest, language: Language) -> list[Element]:
        """What follows BOS and the first picture, without the pictures that stand within it."""
        return [element for turn in _turns(request, language) for element in turn]

    def grammar(self, request: ChatRequest, language: Language) -> TextGrammar:
        return TextGrammar(language, is_reasoning=request.reasoning)

    def output(self, request: ChatRequest, wire: WireTrace, language: Language) -> dict[str, Any]:
        return answer_output(wire, is_reasoning=request.reasoning, language=language)

    def wire_from_output(
        self, request: ChatRequest, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        return None

    def wire_from_target(
        self, request: ChatRequest, target: object, language: Language
    ) -> WireTrace:
        raise ValueError("chat cannot be trained")

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        raise ValueError("chat has no ground truth")


def further_pictures(request: ChatRequest, language: Language) -> list[tuple[int, int]]:
    """All pictures but the one that the conversation begins with.

    Returns:
        In front of which element of the prompt each stands, and its index in the request's images.
    """
    placed: list[tuple[int, int]] = []
    num_elements = 0
    for turn, elements in zip(request.turns, _turns(request, language), strict=True):
        placed += [(num_elements, image) for image in turn.images]
        num_elements += len(elements)
    return placed if request.image is None else placed[1:]


def _turns(request: ChatRequest, language: Language) -> list[list[Element]]:
    """The elements of each turn.

    Raises:
        ValueError: A turn in the middle has no answer, or the last has one.
    """
    turns = request.turns
    if [turn.answer is None for turn in turns] != [False] * (len(turns) - 1) + [True]:
        raise ValueError("every turn but the last has an answer, and the last has none")
    return [
        _turn(turn, request.system if index == 0 else "", request.reasoning, language)
        for index, turn in enumerate(turns)
    ]


def _turn(turn: ChatTurn, system: str, is_reasoning: bool, language: Language) -> list[Element]:
    query, encode = language.ids.templates.query, language.tokenizer.encode
    text = f"{system}\n\n{turn.text}" if system else turn.text
    asked = [*query.prefix, *encode(text)]
    if turn.answer is not None:
        return text_elements([*asked, *query.answer_prefix, *encode(turn.answer)])
    opener = query.reasoning_prefix if is_reasoning else query.answer_prefix
    return text_elements([*asked, *opener])
