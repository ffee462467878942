"""What every skill provides and what all share: the vocabulary, the grammar, the wire lists.

A skill knows its prompt, the grammar of its answers, how an answer becomes the API's output, how a
right answer becomes one to imitate, and its reward. Everything else (sampling, scoring, replaying)
works on any skill through these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from contract.skills import GroundTruth, Settings
from trainer.model.bins import coord_value, size_value
from trainer.model.config import TokenizerConfig
from trainer.model.tokenizer import Tokenizer
from trainer.sequence import Action, Element, Mask

OUTSIDE = 0.01
"""How far outside 0-1 a coordinate is clamped rather than refused; http-api.md section 6."""

RequestT = TypeVar("RequestT", contravariant=True)
TargetT = TypeVar("TargetT", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Language:
    """The tokenizer of the loaded model with its special ids, templates and bin conventions.

    Attributes:
        rounding: What decoded coordinates and sizes are rounded to; None: not at all.
    """

    tokenizer: Tokenizer
    ids: TokenizerConfig
    vocab_size: int
    coord_divisor: int = 1023
    rounding: torch.dtype | None = None

    def coord(self, index: int) -> float:
        """The coordinate, 0-1, that a bin stands for outside the model."""
        return self._rounded(coord_value(index, divisor=self.coord_divisor))

    def size(self, index: int) -> float:
        """The width or height, 1/1024 to 1, that a bin stands for outside the model."""
        return self._rounded(size_value(index))

    def _rounded(self, value: float) -> float:
        return value if self.rounding is None else float(torch.tensor(value, dtype=self.rounding))

    def num_bins_of(self, token: int) -> int:
        """How many bins are drawn with a token: 1 with a coordinate, 2 with a size, else none."""
        return 1 if token == self.ids.coord_id else 2 if token == self.ids.size_id else 0


@dataclass(frozen=True, kw_only=True)
class WireTrace:
    """An answer in the lists of http-api.md 8.6, which say everything that was drawn, in order."""

    thinking_tokens: tuple[int, ...] = ()
    has_answer_separator: bool = False
    answer_tokens: tuple[int, ...] = ()
    coords: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    is_stopped: bool = True


class Grammar(Protocol):
    """The state of one answer while it grows."""

    def mask(self) -> Mask:
        """What may be drawn next."""
        ...

    def push(self, token: int) -> None:
        """Take note of a draw; the end token ends the answer."""
        ...

    def is_complete(self) -> bool:
        """Whether the answer may end here, with nothing half drawn."""
        ...

    def most_actions(self, settings: Settings, num_room: int) -> int:
        """How many actions an answer may take when `num_room` positions are left; at least one.

        An answer that reaches it ends for length, without an end token and with nothing half drawn.
        """
        ...


class SkillRules(Protocol[RequestT, TargetT]):
    """One skill. Stateless; `request` is the skill's request of contract.skills."""

    def prompt(self, request: RequestT, language: Language) -> list[Element]:
        """What follows BOS and image."""
        ...

    def grammar(self, request: RequestT, language: Language) -> Grammar:
        """A fresh grammar for one answer."""
        ...

    def output(self, request: RequestT, wire: WireTrace, language: Language) -> dict[str, Any]:
        """The API's output of an answer."""
        ...

    def wire_from_output(
        self, request: RequestT, output: dict[str, Any], language: Language
    ) -> WireTrace | None:
        """The answer that an output stands for, or None when the output is not usable."""
        ...

    def wire_from_target(self, request: RequestT, target: TargetT, language: Language) -> WireTrace:
        """The answer that SFT imitates; always ends with the end token."""
        ...

    def reward(self, output: dict[str, Any], truth: GroundTruth) -> float:
        """The reward of an output against a ground truth, 0-1."""
        ...


class ObjectsGrammar:
    """Objects one after another, each a fixed run of spatial tokens, then the end token.

    Where an object may begin the end token may be drawn instead; inside an object every token is
    forced.
    """

    def __init__(self, run: Sequence[int], end: int):
        self._run = tuple(run)
        self._end = end
        self._num_in_object = 0

    def mask(self) -> Mask:
        token = self._run[self._num_in_object]
        return Mask(allowed=(token, self._end) if self._num_in_object == 0 else (token,))

    def push(self, token: int) -> None:
        if token == self._end and self._num_in_object == 0:
            return
        self._num_in_object = (self._num_in_object + 1) % len(self._run)

    def is_complete(self) -> bool:
        return self._num_in_object == 0

    def most_actions(self, settings: Settings, num_room: int) -> int:
        num_objects = min(settings.max_objects, num_room // len(self._run))
        return max(1, num_objects) * len(self._run)


class TextGrammar:
    """Free text up to the end token; with reasoning, first a thought that the answer token ends.

    Some readings of Moondream 2 repeat that token; what is repeated is forced.

    Coordinates and sizes may occur in it like any other token.
    """

    def __init__(self, language: Language, *, is_reasoning: bool):
        query = language.ids.templates.query
        self._answer_id = language.ids.answer_id
        self._is_thinking = is_reasoning
        self._num_repeats = language.ids.post_reasoning_answer_tokens - 1
        self._num_due = 0
        self._repeat_mask = Mask(allowed=(self._answer_id,))
        self._thinking_mask = Mask(suppressed=query.reasoning_suppressed_token_ids)
        self._answer_mask = Mask(suppressed=query.answer_suppressed_token_ids)

    def mask(self) -> Mask:
        if self._num_due:
            return self._repeat_mask
        return self._thinking_mask if self._is_thinking else self._answer_mask

    def push(self, token: int) -> None:
        if self._num_due:
            self._num_due -= 1
        elif self._is_thinking and token == self._answer_id:
            self._is_thinking, self._num_due = False, self._num_repeats

    def is_complete(self) -> bool:
        return True

    def most_actions(self, settings: Settings, num_room: int) -> int:
        return min(settings.max_tokens, num_room)


def read_coordinate(value: Any) -> float:
    """A coordinate of a caller's output, which nobody has checked before.

    Returns:
        The value; slightly outside 0-1 it is moved to the edge.

    Raises:
        TypeError: It is not a number.
        ValueError: It lies farther outside than `OUTSIDE`, like a pixel sent by mistake.
    """
    if type(value) not in (int, float):
        raise TypeError(f"a coordinate is a number, got {type(value).__name__}")
    if not -OUTSIDE <= value <= 1 + OUTSIDE:
        raise ValueError("a coordinate lies in 0-1")
    return min(max(float(value), 0.0), 1.0)


def to_wire(actions: Sequence[Action], *, is_reasoning: bool, language: Language) -> WireTrace:
    """Sort the draws of an answer into the lists of the wire."""
    ids = language.ids
    tokens = [action.token for action in actions]
    is_stopped = bool(tokens) and tokens[-1] == ids.eos_id
    if is_stopped:
        tokens.pop()
    split = len(tokens)
    if is_reasoning and ids.answer_id in tokens:
        split = tokens.index(ids.answer_id)
    has_separator = is_reasoning and split < len(tokens)
    thinking = tokens[:split] if is_reasoning else []
    num_separators = language.ids.post_reasoning_answer_tokens
    answer = tokens[split + num_separators :] if is_reasoning else tokens
    return WireTrace(
        thinking_tokens=tuple(thinking),
        has_answer_separator=has_separator,
        answer_tokens=tuple(answer),
        coords=tuple(a.bins[0] for a in actions if a.token == ids.coord_id),
        sizes=tuple((a.bins[0], a.bins[1]) for a in actions if a.token == ids.size_id),
        is_stopped=is_stopped,
    )


def from_wire(
    wire: WireTrace, grammar: Grammar, *, is_reasoning: bool, language: Language
) -> tuple[Action, ...] | None:
    """Replay the lists of the wire through a fresh grammar.

    Returns:
        The actions with their masks, or None when the lists do not fit the grammar or one another.
    """
    ids = language.ids
    has_thought = bool(wire.thinking_tokens) or wire.has_answer_separator
    if has_thought and (not is_reasoning or ids.answer_id in wire.thinking_tokens):
        return None
    if is_reasoning and wire.answer_tokens and not wire.has_answer_separator:
        return None
    tokens = list(wire.thinking_tokens)
    tokens += [ids.answer_id] * ids.post_reasoning_answer_tokens * wire.has_answer_separator
    tokens += wire.answer_tokens
    if ids.eos_id in tokens:
        return None
    tokens += [ids.eos_id] * wire.is_stopped
    coords, sizes = iter(wire.coords), iter(wire.sizes)
    actions: list[Action] = []
    for token in tokens:
        mask = grammar.mask()
        num_bins = language.num_bins_of(token)
        bins: tuple[int, ...] | None = ()
        if num_bins == 1:
            coord = next(coords, None)
            bins = None if coord is None else (coord,)
        elif num_bins == 2:
            bins = next(sizes, None)
        if bins is None or not mask.admits(token):
            return None
        actions.append(Action(token=token, mask=mask, bins=tuple(bins)))
        grammar.push(token)
    has_rest = next(coords, None) is not None or next(sizes, None) is not None
    if has_rest or not grammar.is_complete():
        return None
    return tuple(actions)
