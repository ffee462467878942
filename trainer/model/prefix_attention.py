"""Attention of many answers to a prefix that they share, with gradients, and each to its own past.

All queries meet the prefix in one product and their own answer in another; the two are merged by
their log-sum-exp. Nothing of the size of the scores is kept for the backward pass, which computes
them again and gives both parts their share from the merged result:

    P = exp(s - l);   dV = P^T dO;   dS = P (dO V^T - rowsum(dO O));   dQ = dS K;   dK = dS^T Q

with l the log-sum-exp over both parts.
Source: arXiv 2205.14135 (the backward pass), 2402.05099 (the split).

Letters: H heads, P positions of the prefix, N positions of all answers, C answers of a chunk, A
positions of its longest answer, M places of all chunks (C * A each), d head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.model.upload import uploaded

LONGEST_TO_SHORTEST = 2.0
"""Within a chunk the shorter answers are filled up; one may be so many times as long as another."""

CHUNK_SCORES = 1 << 22
"""Scores of a chunk and head at most, whatever the number of answers: C * A * A."""


@dataclass(frozen=True, kw_only=True)
class AnswerChunks:
    """Answers that stand one behind the other, gathered into chunks of like length.

    Attributes:
        shapes: C and A of each chunk.
        source_M: [M] which position of the N stands in each place; None where all stand so already.
        place_N: [N] in which place each position stands.
        is_filled_M: [M] boolean, False in places that only fill up.
    """

    shapes: tuple[tuple[int, int], ...]
    source_M: Tensor | None
    place_N: Tensor | None
    is_filled_M: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> AnswerChunks:
        """Lay answers of these lengths out; all at least 1."""
        chunks = list(_chunked(lengths))
        shapes = tuple((len(chunk), lengths[chunk[-1]]) for chunk in chunks)
        if len(set(lengths)) == 1:
            return cls(shapes=shapes, source_M=None, place_N=None, is_filled_M=None)
        starts = list(accumulate(lengths, initial=0))
        source: list[int] = []
        is_filled: list[bool] = []
        place = [0] * sum(lengths)
        for chunk, (_, width) in zip(chunks, shapes, strict=True):
            for answer in chunk:
                for slot in range(width):
                    is_filled.append(slot < lengths[answer])
                    source.append(starts[answer] + min(slot, lengths[answer] - 1))
                    if is_filled[-1]:
                        place[source[-1]] = len(source) - 1
        return cls(
            shapes=shapes,
            source_M=uploaded(source, device),
            place_N=uploaded(place, device),
            is_filled_M=uploaded(is_filled, device),
        )

    def laid_out(self, values_HNd: Tensor) -> list[Tensor]:
        """[H, C, A, d] of each chunk; what fills up repeats the last position of an answer."""
        if self.source_M is not None:
            values_HNd = values_HNd.index_select(1, self.source_M)
        sizes = [count * width for count, width in self.shapes]
        parts = values_HNd.split(sizes, dim=1)
        return [
            part.view(len(part), *shape, -1) for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def normalisers(self, lse_HN: Tensor) -> list[Tensor]:
        """[H, C, A, 1] of each chunk, infinite in places that only fill up, so that exp gives 0."""
        if self.source_M is not None and self.is_filled_M is not None:
            lse_HN = lse_HN.index_select(1, self.source_M)
            lse_HN = lse_HN.masked_fill(~self.is_filled_M, torch.inf)
        sizes = [count * width for count, width in self.shapes]
        parts = lse_HN.split(sizes, dim=1)
        return [part.view(len(part), *s, 1) for part, s in zip(parts, self.shapes, strict=True)]

    def in_order(self, chunks: Sequence[Tensor]) -> Tensor:
        """[H, N, ...] of [H, C, A, ...] of each chunk."""
        flat = [chunk.flatten(1, 2) for chunk in chunks]
        values = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        return values if self.place_N is None else values.index_select(1, self.place_N)


def _chunked(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indexes of answers of like length, ascending, or in their order where all are equal."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    chunk: list[int] = []
    for index in order:
        longest = lengths[index]
        is_alike = not chunk or longest <= LONGEST_TO_SHORTEST * lengths[chunk[0]]
        if chunk and not (is_alike and (len(chunk) + 1) * longest**2 <= CHUNK_SCORES):
            yield chunk
            chunk = []
        chunk.append(index)
    yield chunk


def attend_to_prefix(
    q_HNd: Tensor,
    prefix_k_HPd: Tensor,
    prefix_v_HPd: Tensor,
    own_k_HNd: Tensor,
    own_v_HNd: Tensor,
    chunks: AnswerChunks,
) -> Tensor:
    """Each position attends to the whole prefix, and to its own answer up to itself.

    Scores are computed in float32 or better.

    Returns:
        [H, N, d] in the dtype of the queries.
    """
    out: Tensor = _AttendToPrefix.apply(  # pyright: ignore[reportAssignmentType] -- untyped in torch
        q_HNd, prefix_k_HPd, prefix_v_HPd, own_k_HNd, own_v_HNd, chunks
    )
    return out


class _AttendToPrefix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_HNd: Tensor,
        prefix_k_HPd: Tensor,
        prefix_v_HPd: Tensor,
        own_k_HNd: Tensor,
        own_v_HNd: Tensor,
        chunks: AnswerChunks,
    ) -> Tensor:
        scale = 1.0 / math.sqrt(q_HNd.shape[-1])
        q, k, v, own_k, own_v = map(
            _wide, (q_HNd, prefix_k_HPd, prefix_v_HPd, own_k_HNd, own_v_HNd)
        )
        out_HNd, lse_HN = _attention(scale * (q @ k.transpose(-1, -2)), v)
        own_outs: list[Tensor] = []
        own_lses: list[Tensor] = []
        for q_HCAd, k_HCAd, v_HCAd in zip(*map(chunks.laid_out, (q, own_k, own_v)), strict=True):
            scores_HCAA = scale * (q_HCAd @ k_HCAd.transpose(-1, -2))
            out, lse = _attention(_causal(scores_HCAA, -torch.inf), v_HCAd)
            own_outs.append(out)
            own_lses.append(lse)
        own_out_HNd, own_lse_HN = chunks.in_order(own_outs), chunks.in_order(own_lses)
        merged_HNd = torch.lerp(out_HNd, own_out_HNd, torch.sigmoid(own_lse_HN - lse_HN)[..., None])
        ctx.save_for_backward(
            q_HNd, prefix_k_HPd, prefix_v_HPd, own_k_HNd, own_v_HNd, merged_HNd,
            torch.logaddexp(lse_HN, own_lse_HN),
        )  # fmt: skip
        ctx.chunks = chunks
        return merged_HNd.to(q_HNd.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_HNd: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] -- one output
        *tensors, merged_HNd, lse_HN = ctx.saved_tensors
        q, k, v, own_k, own_v = map(_wide, tensors)
        chunks: AnswerChunks = ctx.chunks
        scale = 1.0 / math.sqrt(q.shape[-1])
        grad = grad_HNd.to(q.dtype)
        delta_HN1 = (grad * merged_HNd).sum(-1, keepdim=True)
        share_HNP = (scale * (q @ k.transpose(-1, -2))).sub_(lse_HN[..., None]).exp_()
        grad_v = share_HNP.transpose(-1, -2) @ grad
        grad_scores_HNP = (grad @ v.transpose(-1, -2)).sub_(delta_HN1).mul_(share_HNP)
        grad_k = scale * (grad_scores_HNP.transpose(-1, -2) @ q)
        grad_q = grad_scores_HNP @ k
        own: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for q_c, k_c, v_c, grad_c, delta_c, lse_c in zip(
            *map(chunks.laid_out, (q, own_k, own_v, grad, delta_HN1)),
            chunks.normalisers(lse_HN),
            strict=True,
        ):
            share = _causal((scale * (q_c @ k_c.transpose(-1, -2))).sub_(lse_c).exp_(), 0.0)
            grad_scores = (grad_c @ v_c.transpose(-1, -2)).sub_(delta_c).mul_(share)
            own[0].append(grad_scores @ k_c)
            own[1].append(grad_scores.transpose(-1, -2) @ q_c)
            own[2].append(share.transpose(-1, -2) @ grad_c)
        own_q, own_k_grad, own_v_grad = map(chunks.in_order, own)
        gradients = (scale * (grad_q + own_q), grad_k, grad_v, scale * own_k_grad, own_v_grad)
        return *(g.to(t.dtype) for g, t in zip(gradients, tensors, strict=True)), None


def _attention(scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over scores times values, and its log-sum-exp; the scores are used up."""
    most = scores.amax(-1, keepdim=True)
    share = scores.sub_(most).exp_()
    total = share.sum(-1, keepdim=True)
    return (share @ v).div_(total), (most + total.log()).squeeze(-1)


def _causal(scores_HCAA: Tensor, beyond: float) -> Tensor:
    """Put what lies beyond the diagonal to one value, in place."""
    width = scores_HCAA.shape[-1]
    is_beyond = torch.ones(width, width, dtype=torch.bool, device=scores_HCAA.device).triu(1)
    return scores_HCAA.masked_fill_(is_beyond, beyond)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
