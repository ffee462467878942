"""Attention by structure against a dense softmax over who is an ancestor of whom.

A position is told by its path (root; root and prompt; root, prompt and answer) and its place in its
own sequence. It sees those whose path its own begins with, up to its own place; in a root all.

Letters: H heads, T positions of the stream, E ends, d head width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from trainer.model import prefix_attention
from trainer.model.prefix_attention import AnswerChunks
from trainer.model.tree import PromptShape, RootShape, Tree

HEADS, WIDTH = 3, 4
TOLERANCE = 1e-10  # relative L2, float64 on both sides
CPU = torch.device("cpu")

Roots = list[RootShape]
Path = tuple[int, ...]

SMALL = [
    RootShape(length=3, prompts=(PromptShape(length=2, answers=(1, 2)), PromptShape(length=1))),
    RootShape(length=1, prompts=(PromptShape(length=2, answers=(3,)),)),
]


def random_roots(seed: int) -> Roots:
    """One to three, with and without a picture; prompts without answers; answers of any length."""
    chosen = random.Random(seed)
    return [
        RootShape(
            length=chosen.choice((1, 5)),
            prompts=tuple(
                PromptShape(
                    length=chosen.randint(1, 4),
                    answers=tuple(
                        chosen.choice((1, 2, 3, 3, 7, 20)) for _ in range(chosen.randint(0, 6))
                    ),
                )
                for _ in range(chosen.randint(1, 3))
            ),
        )
        for _ in range(chosen.randint(1, 3))
    ]


def places_of(roots: Roots) -> Iterator[tuple[Path, int]]:
    """Path and place of every position of the stream."""
    for r, root in enumerate(roots):
        yield from (((r,), at) for at in range(root.length))
        for p, prompt in enumerate(root.prompts):
            yield from (((r, p), root.length + at) for at in range(prompt.length))
            first = root.length + prompt.length
            for a, length in enumerate(prompt.answers):
                yield from (((r, p, a), first + at) for at in range(length))


def dense_attention(roots: Roots, q_HTd: Tensor, k_HTd: Tensor, v_HTd: Tensor) -> Tensor:
    """Softmax over all positions, those that are not seen at minus infinity."""
    places = list(places_of(roots))
    sees_TT = torch.tensor([
        [mine[: len(other)] == other and (at >= there or mine == other == mine[:1])
         for other, there in places]
        for mine, at in places
    ])  # fmt: skip
    scores_HTT = torch.einsum("htd,hsd->hts", q_HTd, k_HTd) / math.sqrt(q_HTd.shape[-1])
    return torch.softmax(scores_HTT.masked_fill(~sees_TT, -torch.inf), dim=-1) @ v_HTd


def ends_of(roots: Roots) -> list[int]:
    """The last position of every prompt, and all of every answer."""
    paths = [path for path, _ in places_of(roots)]
    last = {path: i for i, path in enumerate(paths)}
    return [
        i for i, path in enumerate(paths) if len(path) == 3 or (len(path) == 2 and i == last[path])
    ]


def random_qkv(num_positions: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_positions)
    shape = (HEADS, num_positions, WIDTH)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of q, k and v under some uneven weights of it."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator).to(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


def both(roots: Roots, inputs: list[Tensor], *, at_ends: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Value and gradients by structure, and those of the dense twin in float64."""
    tree = Tree(roots, device=CPU)
    mine = [x.detach().clone().requires_grad_() for x in inputs]
    theirs = [x.detach().double().requires_grad_() for x in inputs]
    dense = dense_attention(roots, *theirs)
    return (
        with_gradients(tree.attend(*mine, at_ends=at_ends), mine),
        with_gradients(dense[:, ends_of(roots)] if at_ends else dense, theirs),
    )


def distance(mine: Tensor, theirs: Tensor) -> float:
    return float((mine.double() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("at_ends", [False, True], ids=["everywhere", "at ends"])
@pytest.mark.parametrize("seed", range(12))
def test_value_and_gradients_equal_dense_attention(seed, at_ends):
    roots = random_roots(seed)
    inputs = random_qkv(len(list(places_of(roots))))
    for found, wanted in zip(*both(roots, inputs, at_ends=at_ends), strict=True):
        assert distance(found, wanted) < TOLERANCE


@pytest.mark.parametrize("most", [1, 12, 60])
def test_chunks_of_any_size_change_nothing(most, monkeypatch):
    monkeypatch.setattr(prefix_attention, "CHUNK_SCORES", most)
    even = [RootShape(length=4, prompts=(PromptShape(length=2, answers=(3,) * 7),))]
    for roots in (even, random_roots(3), random_roots(4)):
        inputs = random_qkv(len(list(places_of(roots))))
        for found, wanted in zip(*both(roots, inputs, at_ends=False), strict=True):
            assert distance(found, wanted) < TOLERANCE


def test_a_position_is_where_its_sequence_alone_would_have_it():
    tree = Tree(SMALL, device=CPU)
    # picture 0-2, prompt 3-4, answers from 5, prompt 3; then a root, a prompt 1-2, an answer 3-5
    assert tree.positions_1T.tolist() == [[0, 1, 2, 3, 4, 5, 5, 6, 3, 0, 1, 2, 3, 4, 5]]
    assert tree.num_positions == 15
    assert tree.ends_E.tolist() == [4, 5, 6, 7, 8, 11, 12, 13, 14]
    assert list(tree.starts()) == [0, 9]
    assert tree.num_copied == (3 + 2) + (3 + 1) + (1 + 2)


@pytest.mark.parametrize("seed", range(6))
def test_positions_and_ends_of_any_shape(seed):
    roots = random_roots(seed)
    tree = Tree(roots, device=CPU)
    assert tree.positions_1T.tolist() == [[at for _, at in places_of(roots)]]
    assert tree.ends_E.tolist() == ends_of(roots)


def test_answers_of_like_length_share_a_chunk(monkeypatch):
    lengths = [9, 2, 1, 4, 3, 2, 8]
    chunks = AnswerChunks.of(lengths, CPU)
    assert chunks.shapes == ((3, 2), (2, 4), (2, 9))  # 1, 2, 2; 3, 4; 8, 9
    monkeypatch.setattr(prefix_attention, "CHUNK_SCORES", 16)
    # 1, 2, 2 take 3 * 2 * 2 scores; 3 and 4 would take 32; 8 and 9 more than 16 each
    assert AnswerChunks.of(lengths, CPU).shapes == ((3, 2), (1, 3), (1, 4), (1, 8), (1, 9))


def test_equal_answers_are_not_moved_and_their_chunks_are_bounded(monkeypatch):
    monkeypatch.setattr(prefix_attention, "CHUNK_SCORES", 27)
    chunks = AnswerChunks.of([3] * 7, CPU)
    assert chunks.shapes == ((3, 3), (3, 3), (1, 3))
    assert chunks.source_M is None


def test_what_is_laid_out_comes_back_in_order():
    lengths = [9, 2, 1, 4, 3, 2, 8]
    chunks = AnswerChunks.of(lengths, CPU)
    values_HNd = random_qkv(sum(lengths))[0]
    laid_out = chunks.laid_out(values_HNd)
    assert torch.equal(chunks.in_order(laid_out), values_HNd)
    ends = [0, *(sum(lengths[: i + 1]) for i in range(len(lengths)))]
    found = {tuple(answer[0, 0].tolist()) for chunk in laid_out for answer in chunk.unbind(1)}
    assert found == {tuple(values_HNd[0, start].tolist()) for start, _ in pairwise(ends)}


def test_bfloat16_is_rounded_at_the_end_alone():
    # scores near 100, where a rounding to bfloat16 would be worth up to a factor of 1.3 of a share
    roots = [RootShape(length=5, prompts=(PromptShape(length=3, answers=(4, 9, 2, 4)),))]
    q, k, v = random_qkv(27, torch.bfloat16)
    inputs = [8 * q, 8 * k, v]
    for at_ends in (False, True):
        found, wanted = both(roots, inputs, at_ends=at_ends)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.dtype == torch.bfloat16
            assert distance(mine, theirs) < 2.0**-7


@pytest.mark.parametrize("own", [1e3, -1e3], ids=["own part alone", "prefix alone"])
def test_one_part_may_outweigh_the_other_by_any_amount(own):
    roots = [RootShape(length=4, prompts=(PromptShape(length=2, answers=(3, 5)),))]
    q, k, v = random_qkv(14)
    q[..., 0], k[..., 0] = 10.0, 0.0
    k[:, 6:, 0] = own  # scores of the answers' own keys lie 5000 above or below those of the prefix
    for found, wanted in zip(*both(roots, [q, k, v], at_ends=False), strict=True):
        assert torch.isfinite(found).all()
        assert distance(found, wanted) < TOLERANCE


def test_what_a_position_does_not_see_may_be_of_any_size():
    roots = [RootShape(length=4, prompts=(PromptShape(length=2, answers=(3, 5)),))]
    q, k, v = random_qkv(14)
    q[..., 0] = 1.0
    k[:, [8, 13], 0] = 1e4  # the last positions of the answers, beyond exp's range for the others
    for found, wanted in zip(*both(roots, [q, k, v], at_ends=False), strict=True):
        assert torch.isfinite(found).all()
        assert distance(found, wanted) < TOLERANCE


def test_no_gradient_reaches_another_answer():
    q, k, v = (x.requires_grad_() for x in random_qkv(15))
    out_HTd = Tree(SMALL, device=CPU).attend(q, k, v, at_ends=False)
    for gradient in torch.autograd.grad(out_HTd[:, 6:8].sum(), [q, k, v]):
        # the second answer is 6 and 7; it sees the picture and its prompt, 0 to 4
        assert not gradient[:, [5, *range(8, 15)]].any()
        assert gradient[:, 6:8].any()
