"""Advantages, divergence and the split into packs, for any numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.batching import Row
from trainer.geometry import detect_reward, points_in_boxes_reward, points_reward
from trainer.packing import split_into_packs
from trainer.rl.advantages import advantages
from trainer.rl.loss import k3_divergence
from trainer.sequence import Action, Element, Mask

GROUPS = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), min_size=1, max_size=5)
SCALES = st.sampled_from(["group", "batch", "none"])
UNIT = st.floats(0.0, 1.0)
POINTS = st.lists(st.tuples(UNIT, UNIT), max_size=6)
BOXES = st.lists(
    st.tuples(UNIT, UNIT, UNIT, UNIT).map(
        lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
    ),
    max_size=6,
)


@given(GROUPS, SCALES)
def test_the_advantages_of_a_group_sum_to_zero_and_keep_the_order_of_rewards(groups, scale):
    for rewards, advantage_G in zip(
        groups, advantages(groups, scale=scale, std_floor=1e-4), strict=True
    ):
        spread = max(rewards) - min(rewards)
        assert abs(float(advantage_G.sum())) <= 1e-9 * (1 + max(map(abs, rewards))) * 1e4
        if spread == 0.0:
            assert advantage_G.tolist() == [0.0] * len(rewards)
        for r, a in zip(rewards, advantage_G.tolist(), strict=True):
            for other, b in zip(rewards, advantage_G.tolist(), strict=True):
                assert r > other or a <= b


@given(GROUPS, SCALES, st.randoms())
def test_advantages_follow_a_permutation_of_the_rollouts(groups, scale, random):
    order = list(range(len(groups[0])))
    random.shuffle(order)
    first = advantages(groups, scale=scale, std_floor=0.01)[0]
    turned = advantages([[groups[0][i] for i in order], *groups[1:]], scale=scale, std_floor=0.01)[
        0
    ]
    assert turned.tolist() == pytest.approx(first[order].tolist(), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(-50.0, 0.0), min_size=1), st.lists(st.floats(-50.0, 0.0), min_size=1))
def test_the_divergence_is_never_negative_and_zero_where_both_agree(policy, reference):
    count = min(len(policy), len(reference))
    for dtype in (torch.float32, torch.float64):
        mine = torch.tensor(policy[:count], dtype=dtype)
        theirs = torch.tensor(reference[:count], dtype=dtype)
        assert (k3_divergence(mine, theirs) >= 0.0).all()
        assert (k3_divergence(mine, mine) == 0.0).all()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, "x", "y"]), st.integers(1, 4), st.integers(1, 30)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 300),
)
def test_every_row_is_in_one_pack_that_fits(rows, max_positions):
    made = [
        Row(
            image=image,
            prompt=(Element(token=1),) * (5 * prompt),
            actions=tuple(Action(token=100 + (length * i) % 3, mask=Mask()) for i in range(length)),
        )
        for image, prompt, length in rows
    ]
    packs = list(
        split_into_packs(made, num_image_tokens=16, coord_divisor=1023, max_positions=max_positions)
    )
    assert sorted(i for pack in packs for i in pack) == list(range(len(rows)))

    def num_positions(indexes: Sequence[int]) -> int:
        """Each picture, each prompt behind it, and each answer behind that, once."""
        pieces = set()
        for row in (made[i] for i in indexes):
            fed = tuple(action.token for action in row.actions[:-1])
            pieces.add((row.image, 1 if row.image is None else 17))
            pieces.add((row.image, len(row.prompt), len(row.prompt)))
            pieces.add((row.image, len(row.prompt), fed, len(fed)))
        return sum(piece[-1] for piece in pieces)

    for pack in packs:
        assert len(pack) == 1 or num_positions(pack) <= max_positions
    if num_positions(range(len(made))) <= max_positions:
        assert len(packs) == 1
    for shared in (lambda row: row.image, lambda row: (row.image, row.prompt)):
        for beginning in map(shared, made):
            alike = [i for i, row in enumerate(made) if shared(row) == beginning]
            if num_positions(alike) <= max_positions:
                assert sum(bool(set(pack) & set(alike)) for pack in packs) == 1


def test_a_pack_takes_what_fits_beside_what_it_shares():
    prompts = [(Element(token=n),) * 5 for n in (1, 2, 3)]
    rows = [Row(image="x", prompt=p, actions=(Action(token=0, mask=Mask()),)) for p in prompts]
    # BOS and 16 of the picture once, and twice a prompt of 5; a third one does not fit
    packs = split_into_packs(rows, num_image_tokens=16, coord_divisor=1023, max_positions=27)
    assert list(packs) == [[0, 1], [2]]


@given(BOXES, BOXES, st.randoms())
def test_a_detect_reward_lies_in_0_to_1_and_is_symmetric(predicted, truth, random):
    reward = detect_reward(predicted, truth)
    assert 0.0 <= reward <= 1.0
    assert detect_reward(truth, predicted) == pytest.approx(reward, abs=1e-12)
    shuffled = random.sample(predicted, len(predicted))
    assert detect_reward(shuffled, truth) == pytest.approx(reward, abs=1e-12)


@given(POINTS, POINTS, BOXES)
def test_point_rewards_lie_in_0_to_1(predicted, truth, boxes):
    assert 0.0 <= points_reward(predicted, truth) <= 1.0
    assert 0.0 <= points_in_boxes_reward(predicted, boxes) <= 1.0
    assert points_reward(predicted, predicted) == 1.0
