"""Whether two ways to compute a model agree.

Two measures. **Logits**: fixed questions to a fixed picture, all logits at every position of the
prompts, in the dtype of the model; what a user would notice. **Layers**: each adapted MLP alone, in
float64, on random input; nothing is lost in rounding there, so that a swapped row or a missing
layer shows however little the adapter does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from contract.skills import CaptionRequest, DetectRequest, Pixels, PointRequest, QueryRequest, Skill
from trainer.adapters.lora import Adapter
from trainer.batching import Row, make_batch
from trainer.exchange.errors import ExchangeError
from trainer.image_features import ImageFeatures
from trainer.model.lora_hook import TextAdapter
from trainer.model.moe import MoeMlp
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
NUM_LAYER_INPUTS = 256
"""Random inputs of a layer: with 64 experts, 8 per token, each expert sees about 32 of them."""

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""What rounding may move a logit by, relative to the largest."""

ROUNDED_FACTORS = 0.02
"""What factors rounded to bfloat16 may move of what the adapter does: 2^-9 each, with room."""

EXACT = 1e-6
"""What a layer may lose where the same numbers are multiplied, as a share of the adapter's part."""

MOST_LOST = 0.5
"""What a layer may lose where a sum was rounded: beyond it, more is gone than left."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two computations of the same.

    Attributes:
        num_cases: Questions asked.
        max_difference: Largest absolute difference of a logit; NaN if any is none.
        max_effect: Largest absolute difference that the adapter makes to the base model.
        threshold: What `max_difference` may be.
        lost_share: Of what the adapter adds to a layer's output, the share that is missing or
            wrong (L2), in the worst layer; None where layers were not compared.
        most_lost: What `lost_share` may be.
    """

    num_cases: int
    max_difference: float
    max_effect: float
    threshold: float
    lost_share: float | None = None
    most_lost: float = EXACT

    @property
    def holds(self) -> bool:
        """Written so that NaN does not hold."""
        is_close = self.max_difference <= self.threshold
        return is_close and (self.lost_share is None or self.lost_share <= self.most_lost)

    def with_layers(self, lost_share: float, most_lost: float = EXACT) -> Agreement:
        return replace(self, lost_share=lost_share, most_lost=most_lost)

    def require(self, what: str, *, hint: str = "") -> None:
        """Refuse what does not agree.

        Raises:
            ExchangeError: With the figures.
        """
        if self.holds:
            return
        lost = "" if self.lost_share is None else (
            f"; of what the adapter does in a layer {self.lost_share:.2g} is lost,"
            f" allowed {self.most_lost:.2g}"
        )  # fmt: skip
        raise ExchangeError(
            f"{what} does not compute what the adapter computes: logits differ by"
            f" {self.max_difference:.3g}, allowed {self.threshold:.3g}{lost}. Nothing was kept."
            f"{' ' + hint if hint else ''}"
        )


class Prober:
    """Asks the fixed questions; encodes the picture once, and asks the base model once."""

    def __init__(self, model: Moondream, language: Language):
        self.model = model
        self._language = language
        self._picture = _picture()
        self._features = ImageFeatures(model)
        self._base: list[Tensor] | None = None

    def base(self) -> list[Tensor]:
        """The logits without any adapter."""
        if self._base is None:
            self._base = self.ask(None)
        return self._base

    @torch.no_grad()
    def ask(self, adapter: TextAdapter | None) -> list[Tensor]:
        """All logits of the fixed questions.

        Returns:
            Per question [P, V + bins] float32 on the CPU, P the length of its prompt without BOS
            and image.
        """
        model, features = self.model, self._features.of([self._picture])
        found: list[Tensor] = []
        for request in REQUESTS:
            image = None if request.image is None else self._picture.digest
            prompt = SKILLS[Skill(request.skill)].prompt(request, self._language)
            batch = make_batch(model, [Row(image=image, prompt=prompt)], features)
            hidden_BTD = model.text(
                batch.embeds_BTD,
                positions_BT=batch.positions_1T,
                prefix_len=batch.prefix_len,
                adapter=adapter,
            )
            hidden_PD = hidden_BTD[0, -len(prompt) :]
            logits = [model.text.logits(hidden_PD), model.region.coord_logits(hidden_PD)]
            logits += list(model.region.size_logits(hidden_PD).unbind(-2))
            found.append(torch.cat(logits, dim=-1).float().cpu())
        return found


def compare(
    got: Sequence[Tensor],
    wanted: Sequence[Tensor],
    base: Sequence[Tensor],
    *,
    dtype: torch.dtype,
    effect_share: float = 0.0,
) -> Agreement:
    """Compare the logits of `Prober.ask`.

    Args:
        dtype: What the model computes in.
        effect_share: How much of the adapter's effect may be lost beside rounding.
    """
    effect = _largest_difference(wanted, base)
    largest = float(torch.stack([logits.abs().max() for logits in wanted]).max())
    return Agreement(
        num_cases=len(wanted),
        max_difference=_largest_difference(got, wanted),
        max_effect=effect,
        threshold=ROUNDING[dtype] * max(1.0, largest) + effect_share * effect,
    )


@torch.no_grad()
def layer_outputs(model: Moondream, adapter: Adapter | None) -> list[Tensor]:
    """What each MLP of the text model makes of random input, computed in float64.

    Copies one layer at a time.

    Returns:
        Per layer [N, D] float64 on the CPU.
    """
    found: list[Tensor] = []
    for index, block in enumerate(model.text.blocks):
        mlp = cast("nn.Module", copy.deepcopy(block.mlp)).double()
        generator = torch.Generator().manual_seed(index)
        x_ND = torch.randn(
            NUM_LAYER_INPUTS, model.config.text.dim, generator=generator, dtype=torch.float64
        )
        x_1ND = x_ND[None].to(model.text.wte.device)
        out = mlp(x_1ND, None if adapter is None else adapter.layer(index))
        found.append((out[0] if isinstance(mlp, MoeMlp) else out)[0].cpu())
    return found


def lost_share(got: Sequence[Tensor], wanted: Sequence[Tensor], base: Sequence[Tensor]) -> float:
    """Of what the adapter adds to a layer's output, the share that is missing or wrong.

    Returns:
        ||got - wanted|| / ||wanted - base|| of the worst layer; NaN if anything is none.
    """
    shares = [
        (g - w).norm() / ((w - b).norm() + 1e-9 * w.norm())
        for g, w, b in zip(got, wanted, base, strict=True)
    ]
    return float(torch.stack(shares).max())


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
    try:
        differences = [
            (logits_PN[-1][torch.tensor(note["index"])] - torch.tensor(note["logit"])).abs().max()
            for logits_PN, note in zip(logits, memory, strict=True)
        ]
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ExchangeError("the manifest remembers other questions than ours") from error
    return float(torch.stack(differences).max())


def _largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    differences = [(a - b).abs().max() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(differences).max())


def _picture() -> Pixels:
    """Stripes over a slope of colours, 160 x 120, so that no two patches are alike."""
    y, x = np.mgrid[0:120, 0:160]
    pixels_HWC = np.stack([x * 255 // 159, y * 255 // 119, (x * y // 7) % 256], axis=-1)
    pixels_HWC[(x + 2 * y) // 24 % 3 == 0] = 255
    data = pixels_HWC.astype(np.uint8).tobytes()
    return Pixels(height=120, width=160, digest="agreement", data=data)
