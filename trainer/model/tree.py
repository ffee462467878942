"""Sequences that share their beginnings, laid out as one stream, each position once.

    root      BOS, and a picture if there is one; its positions see one another
    prompt    follows a root; sees it, and itself up to each position
    answer    follows a prompt; sees root and prompt, and itself up to each position

The stream is root, its first prompt, the answers of that, the next prompt, and so on, then the next
root. A position is where its sequence alone would have it. What is computed of a sequence is what
it would be alone: nothing sees beyond its own ancestors.

The last layer is needed only where something is drawn: at the last position of every prompt, and at
all of every answer. Those positions, in the order of the stream, are the *ends*.

Letters: H heads, T positions of the stream, E ends, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional

from trainer.model.prefix_attention import AnswerChunks, attend_to_prefix
from trainer.model.upload import uploaded


@dataclass(frozen=True, kw_only=True)
class PromptShape:
    """Positions of a prompt, at least one, and of each of its answers; those of none are left out.

    An answer has one position less than it has actions, as the last one is not fed back.
    """

    length: int
    answers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RootShape:
    """Positions of BOS and picture, and the prompts that follow, at least one."""

    length: int
    prompts: tuple[PromptShape, ...]


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A prompt as its attention needs it; `chunks` None: it has no answers with positions."""

    sees_TS: Tensor
    chunks: AnswerChunks | None


class Tree:
    """The layout of a stream.

    Attributes:
        num_positions: T.
        num_copied: Positions of roots and prompts whose keys and values lie beside one another in
            copies of their own: a root's once for each of its prompts.
        positions_1T: [1, T] the position of each in its own sequence.
        ends_E: [E] where the ends stand in the stream.
    """

    def __init__(self, roots: Sequence[RootShape], *, device: torch.device):
        self._roots = tuple(roots)
        self._prompts: list[list[_Prompt]] = []
        self._sizes: list[int] = []
        positions: list[int] = []
        ends: list[int] = []
        for root in roots:
            positions += range(root.length)
            self._sizes.append(root.length)
            self._prompts.append([_prompt(root.length, p, device) for p in root.prompts])
            for prompt in root.prompts:
                first = root.length + prompt.length
                positions += range(root.length, first)
                ends += range(len(positions) - 1, len(positions) + sum(prompt.answers))
                for length in prompt.answers:
                    positions += range(first, first + length)
                self._sizes += [prompt.length, sum(prompt.answers)]
        self.num_positions = len(positions)
        self.num_copied = sum(root.length + p.length for root in roots for p in root.prompts)
        self.positions_1T = uploaded([positions], device)
        self.ends_E = uploaded(ends, device)

    def attend(self, q_HTd: Tensor, k_HTd: Tensor, v_HTd: Tensor, *, at_ends: bool) -> Tensor:
        """Attention of every position to those that it sees.

        Args:
            at_ends: Only that of the ends.

        Returns:
            [H, T, d], or [H, E, d].
        """
        # One split each, whose backward pass is one concatenation.
        segments = zip(*(x.split(self._sizes, dim=1) for x in (q_HTd, k_HTd, v_HTd)), strict=True)
        outs: list[Tensor] = []
        for prompts in self._prompts:
            root_q, root_k, root_v = next(segments)
            if not at_ends:
                outs.append(_sdpa(root_q, root_k, root_v))
            for prompt in prompts:
                q, k, v = next(segments)
                k, v = torch.cat((root_k, k), dim=1), torch.cat((root_v, v), dim=1)
                if at_ends:
                    outs.append(_sdpa(q[:, -1:], k, v))
                else:
                    outs.append(_sdpa(q, k, v, prompt.sees_TS))
                answer_q, answer_k, answer_v = next(segments)
                if prompt.chunks is not None:
                    outs.append(attend_to_prefix(answer_q, k, v, answer_k, answer_v, prompt.chunks))
        return torch.cat(outs, dim=1)

    def starts(self) -> Iterator[int]:
        """Where each root begins in the stream."""
        lengths = [
            root.length + sum(p.length + sum(p.answers) for p in root.prompts)
            for root in self._roots
        ]
        return (start for start, _ in pairwise(accumulate(lengths, initial=0)))


def _prompt(num_before: int, shape: PromptShape, device: torch.device) -> _Prompt:
    slots = torch.arange(num_before + shape.length, device=device)
    return _Prompt(
        sees_TS=slots <= slots[num_before:, None],
        chunks=AnswerChunks.of(shape.answers, device) if shape.answers else None,
    )


def _sdpa(q_HTd: Tensor, k_HSd: Tensor, v_HSd: Tensor, sees_TS: Tensor | None = None) -> Tensor:
    out_1HTd = functional.scaled_dot_product_attention(
        q_HTd[None], k_HSd[None], v_HSd[None], attn_mask=sees_TS
    )
    return out_1HTd[0]
