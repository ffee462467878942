"""What stands in a sequence and what is drawn at its positions: elements, masks, actions, traces.

A prompt is a list of elements. A trace is the list of actions that followed it; action t is drawn
from the hidden state at position P - 1 + t (P: length of the prompt) and, unless it is the last,
enters the sequence as the element at position P + t. Sampling makes traces, training scores them.
Source: model-facts.md sections 4 to 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contract.skills import FinishReason
from trainer.model.bins import coord_value, size_value


@dataclass(frozen=True, kw_only=True)
class Element:
    """One input position: a token, or values whose embedding stands in for the token's.

    `values` is empty for text, (v,) for a coordinate, (width, height) for a size; 0-1.
    """

    token: int
    values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Which tokens may be drawn at a position.

    `allowed` None is the whole vocabulary less `suppressed`; one allowed token means that it is
    forced.
    """

    allowed: tuple[int, ...] | None = None
    suppressed: tuple[int, ...] = ()

    @property
    def is_forced(self) -> bool:
        return self.allowed is not None and len(self.allowed) == 1

    def admits(self, token: int) -> bool:
        if self.allowed is not None:
            return token in self.allowed
        return token not in self.suppressed


@dataclass(frozen=True, kw_only=True)
class Action:
    """One draw: a token under a mask, and the bins that came with it, from the same hidden state.

    `bins` is empty for text, (coordinate bin,) for the coordinate token, (width bin, height bin)
    for the size token; `token_logprob` and `bin_logprobs` are natural logarithms at temperature 1
    under the mask and without top-p, as the sampler saw them, or None where nobody recorded them.
    """

    token: int
    mask: Mask
    bins: tuple[int, ...] = ()
    token_logprob: float | None = None
    bin_logprobs: tuple[float, ...] | None = None

    @property
    def logprob(self) -> float | None:
        """The logarithm of the whole action's probability, or None."""
        if self.token_logprob is None or self.bin_logprobs is None:
            return None
        return self.token_logprob + sum(self.bin_logprobs)

    @property
    def num_draws(self) -> int:
        """How many drawn tokens and bins this is; a forced token is not drawn."""
        return len(self.bins) + (not self.mask.is_forced)

    def element(self, *, coord_divisor: int) -> Element:
        """How this action is fed back."""
        if len(self.bins) == 1:
            return Element(
                token=self.token, values=(coord_value(self.bins[0], divisor=coord_divisor),)
            )
        return Element(token=self.token, values=tuple(size_value(b) for b in self.bins))


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The actions of one answer and why they ended."""

    actions: tuple[Action, ...]
    finish_reason: FinishReason

    def elements(self, *, coord_divisor: int) -> list[Element]:
        """What the actions put into the sequence; nothing follows the last."""
        return [action.element(coord_divisor=coord_divisor) for action in self.actions[:-1]]


def text_elements(tokens: Sequence[int]) -> list[Element]:
    """Plain tokens as elements."""
    return [Element(token=token) for token in tokens]


def spatial_elements(
    refs: Sequence[Sequence[float]], *, coord_id: int, size_id: int
) -> list[Element]:
    """Spatial references as elements: a point is x, y; a box is its centre and its size.

    Raises:
        ValueError: A reference has neither two nor four numbers.
    """
    elements: list[Element] = []
    for ref in refs:
        if len(ref) == 2:
            x, y = ref
        elif len(ref) == 4:
            x, y = (ref[0] + ref[2]) / 2, (ref[1] + ref[3]) / 2
        else:
            raise ValueError(f"a spatial reference has 2 or 4 numbers, got {len(ref)}")
        elements += [Element(token=coord_id, values=(x,)), Element(token=coord_id, values=(y,))]
        if len(ref) == 4:
            size = (ref[2] - ref[0], ref[3] - ref[1])
            elements.append(Element(token=size_id, values=size))
    return elements
