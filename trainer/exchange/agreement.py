"""Whether two ways to compute a model agree, measured on fixed questions to a fixed picture.

The questions are asked of the model as it is; nothing is sampled. Compared are all logits at every
position of the prompts: of the vocabulary, of coordinates and of sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contract.skills import CaptionRequest, DetectRequest, Pixels, PointRequest, QueryRequest, Skill
from trainer.batching import Row, make_batch
from trainer.exchange.errors import ExchangeError
from trainer.image_features import ImageFeatures
from trainer.model.lora_hook import TextAdapter
from trainer.model.moondream import Moondream
from trainer.skills import SKILLS
from trainer.skills.base import Language

REQUESTS = (
    DetectRequest(object="car", image=0),
    PointRequest(object="the red button", image=0),
    QueryRequest(question="What is in this picture?", image=0),
    CaptionRequest(image=0),
    QueryRequest(question="How many legs does a spider have?", reasoning=True),
)
NUM_REMEMBERED = 8

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""What rounding may move, relative to the largest logit."""

MOST_OF_EFFECT = 0.5
"""Never more than this share of what the adapter does: a file that does nothing must not pass."""

ROUNDED_FACTORS = 0.02
"""What factors rounded to bfloat16 may move of what the adapter does: 2^-9 each, with room."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two computations of the same logits.

    Attributes:
        num_cases: Questions asked.
        max_difference: Largest absolute difference of a logit.
        max_effect: Largest absolute difference that the adapter makes to the base model.
        threshold: What `max_difference` may be.
    """

    num_cases: int
    max_difference: float
    max_effect: float
    threshold: float

    @property
    def holds(self) -> bool:
        return self.max_difference <= self.threshold

    def require(self, what: str) -> None:
        """Refuse what does not agree.

        Raises:
            ExchangeError: Naming both numbers.
        """
        if not self.holds:
            raise ExchangeError(
                f"{what} does not compute what the adapter computes: logits differ by"
                f" {self.max_difference:.3g}, allowed are {self.threshold:.3g} (the adapter itself"
                f" moves them by up to {self.max_effect:.3g}). Nothing was kept."
            )


def agreement(
    got: Sequence[Tensor],
    wanted: Sequence[Tensor],
    base: Sequence[Tensor],
    *,
    dtype: torch.dtype,
    effect_share: float = 0.0,
) -> Agreement:
    """Compare the logits of `probe`.

    Args:
        dtype: What the model computes in.
        effect_share: How much of the adapter's effect may be lost beside rounding.
    """
    effect = _largest_difference(wanted, base)
    largest = max(1.0, *(float(logits.abs().max()) for logits in wanted))
    rounding = min(ROUNDING[dtype] * largest, MOST_OF_EFFECT * effect)
    return Agreement(
        num_cases=len(wanted),
        max_difference=_largest_difference(got, wanted),
        max_effect=effect,
        threshold=max(rounding, ROUNDING[torch.float32] * largest) + effect_share * effect,
    )


@torch.no_grad()
def probe(model: Moondream, language: Language, adapter: TextAdapter | None) -> list[Tensor]:
    """All logits of the fixed questions.

    Returns:
        Per question [P, V + bins] float32 on the CPU, P the length of its prompt without BOS and
        image.
    """
    picture = _picture()
    features = ImageFeatures(model).of([picture])
    found: list[Tensor] = []
    for request in REQUESTS:
        image = None if request.image is None else picture.digest
        prompt = SKILLS[Skill(request.skill)].prompt(request, language)
        batch = make_batch(model, [Row(image=image, prompt=prompt)], features)
        hidden_BTD = model.text(
            batch.embeds_BTD,
            positions_BT=batch.positions_1T,
            attention_mask_BTS=batch.mask_1TT,
            adapter=adapter,
        )
        hidden_PD = hidden_BTD[0, -len(prompt) :]
        logits = [model.text.logits(hidden_PD), model.region.coord_logits(hidden_PD)]
        logits += list(model.region.size_logits(hidden_PD).unbind(-2))
        found.append(torch.cat(logits, dim=-1).float().cpu())
    return found


def remembered(logits: Sequence[Tensor]) -> list[dict[str, Any]]:
    """The largest logits at the end of each question, so that whoever imports can compare."""
    found = []
    for logits_PN in logits:
        largest = logits_PN[-1].topk(NUM_REMEMBERED)
        found.append({"index": largest.indices.tolist(), "logit": largest.values.tolist()})
    return found


def difference_from_remembered(logits: Sequence[Tensor], memory: Sequence[dict[str, Any]]) -> float:
    """The largest difference from what `remembered` noted.

    Raises:
        ExchangeError: The notes are not of these questions.
    """
    if len(memory) != len(logits):
        raise ExchangeError("the manifest remembers other questions; it is of another release")
    worst = 0.0
    for logits_PN, note in zip(logits, memory, strict=True):
        now = logits_PN[-1][torch.tensor(note["index"])]
        worst = max(worst, float((now - torch.tensor(note["logit"])).abs().max()))
    return worst


def _largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _picture() -> Pixels:
    """Stripes over a slope of colours, 160 x 120, so that no two patches are alike."""
    y, x = np.mgrid[0:120, 0:160]
    pixels_HWC = np.stack([x * 255 // 159, y * 255 // 119, (x * y // 7) % 256], axis=-1)
    pixels_HWC[(x + 2 * y) // 24 % 3 == 0] = 255
    data = pixels_HWC.astype(np.uint8).tobytes()
    return Pixels(height=120, width=160, digest="agreement", data=data)
