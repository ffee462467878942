"""Philox against its published known answers; draws depend on their place alone."""

from __future__ import annotations

import pytest
import torch

from trainer.philox import philox_4x32, uniforms

# Random123, examples/kat_vectors, philox4x32 with 10 rounds: counter, key, answer
KNOWN_ANSWERS = {
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000",
              "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
             "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
           "d16cfe09 94fdcceb 5001e420 24126ea1"),
}  # fmt: skip


def words(text: str) -> torch.Tensor:
    return torch.tensor([[int(word, 16) for word in text.split()]])


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_the_published_answers_come_out(name):
    counter, key, answer = KNOWN_ANSWERS[name]
    assert philox_4x32(words(counter), words(key)).tolist() == words(answer).tolist()


def test_one_call_serves_many_counters():
    counters = torch.cat([words(counter) for counter, _, _ in KNOWN_ANSWERS.values()])
    keys = torch.cat([words(key) for _, key, _ in KNOWN_ANSWERS.values()])
    answers = torch.cat([words(answer) for _, _, answer in KNOWN_ANSWERS.values()])
    assert torch.equal(philox_4x32(counters, keys), answers)


def test_the_seed_is_the_key_and_the_place_is_the_counter():
    # word 0 of the counter is the position, word 1 the rollout; the key is the seed, low word first
    seed = (0x299F31D0 << 32) | 0xA4093822
    drawn = uniforms([seed], torch.tensor([5]), torch.tensor([9]))
    expected = philox_4x32(torch.tensor([[9, 5, 0, 0]]), words("a4093822 299f31d0"))
    assert torch.equal(drawn, (expected.double() + 0.5) / 2**32)


def test_uniforms_lie_strictly_between_0_and_1_and_look_uniform():
    rollouts, positions = torch.arange(200).repeat(200), torch.arange(200).repeat_interleave(200)
    drawn = uniforms([2**64 - 1], rollouts, positions)
    assert drawn.dtype == torch.float64
    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    # 160,000 draws: the mean of a uniform has a standard error of 0.29 / 400 = 7e-4
    assert drawn.mean().item() == pytest.approx(0.5, abs=3e-3)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0.0).abs().max() < 0.02
    assert len(drawn.unique()) > 0.999 * drawn.numel()


def test_the_ends_of_the_range_stay_inside():
    ends = (torch.tensor([0, 2**32 - 1]).double() + 0.5) / 2.0**32
    assert ends[0] > 0.0
    assert ends[1] < 1.0


def test_a_draw_depends_neither_on_its_row_nor_on_the_others():
    rollouts, positions = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 0, 7, 2])
    together = uniforms([11], rollouts, positions)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(uniforms([11], rollouts[order], positions[order]), together[order])
    for index in range(4):
        alone = uniforms([11], rollouts[index : index + 1], positions[index : index + 1])
        assert torch.equal(alone[0], together[index])


def test_another_seed_rollout_or_position_gives_another_draw():
    places = [(1, 0, 0), (2, 0, 0), (1 << 32, 0, 0), (1, 1, 0), (1, 0, 1)]
    drawn = {
        tuple(uniforms([seed], torch.tensor([rollout]), torch.tensor([position]))[0].tolist())
        for seed, rollout, position in places
    }
    assert len(drawn) == len(places)
