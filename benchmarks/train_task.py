"""What both sides of `benchmarks.train` learn from: one prompt, its rollouts and their rewards.

Token ids are the same on both sides; below `FIRST_TOKEN` they have a meaning on one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.rollout_sides import NUM_ROLLOUTS, NUM_TOKENS, PREFIX, VOCABULARY

FIRST_TOKEN = 32
SIDE_PX = 378
"""Of the picture: 27 x 27 patches of 14 pixels."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One group.

    Attributes:
        prefix: Positions before the answer.
        num_rollouts, num_tokens: Answers, all of one length.
        has_picture: 729 of the prefix are a picture, or else all is text.
    """

    prefix: int = PREFIX
    num_rollouts: int = NUM_ROLLOUTS
    num_tokens: int = NUM_TOKENS
    has_picture: bool = True

    @property
    def answers_GA(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[G, A] token ids."""
        generator = torch.Generator().manual_seed(3)
        shape = (self.num_rollouts, self.num_tokens)
        return torch.randint(FIRST_TOKEN, VOCABULARY, shape, generator=generator)

    @property
    def rewards(self) -> list[float]:
        return [float(i % 2) for i in range(self.num_rollouts)]

    @property
    def advantages_G(self) -> Tensor:  # noqa: N802 (shape suffix)
        """[G] as TRL scales rewards by default."""
        rewards_G = torch.tensor(self.rewards)
        return (rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-4)


def noise_pixels(seed: int = 0, side_px: int = SIDE_PX) -> np.ndarray:
    """[side, side, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)
