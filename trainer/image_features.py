"""Image tokens by the picture's content: each picture is encoded once, whoever asks.

The vision tower is frozen and has no adapter, so its output depends on the picture alone and is
shared by rollouts, inference and training of every finetune.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contract.skills import Pixels
from trainer.model.crops import make_crops
from trainer.model.moondream import Moondream

DEFAULT_BUDGET_BYTES = 2 << 30


class ImageFeatures:
    """A bounded cache of image tokens, least recently used out first."""

    def __init__(self, model: Moondream, *, budget_bytes: int = DEFAULT_BUDGET_BYTES):
        self._model = model
        self._budget_bytes = budget_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, images: Sequence[Pixels]) -> dict[str, Tensor]:
        """Encode what is not known yet.

        Returns:
            [num_image_tokens, D] by digest, without gradient, in the model's dtype.
        """
        found: dict[str, Tensor] = {}
        for image in images:
            if image.digest in found:
                continue
            if image.digest in self._kept:
                self._kept.move_to_end(image.digest)
                found[image.digest] = self._kept[image.digest]
            else:
                found[image.digest] = self._encode(image)
        for digest, tokens in found.items():
            self._keep(digest, tokens)
        return found

    @torch.no_grad()
    def _encode(self, image: Pixels) -> Tensor:
        pixels_HWC = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
        crops = make_crops(pixels_HWC, self._model.config.vision)
        return self._model.vision.encode_images([crops])[0]

    def _keep(self, digest: str, tokens: Tensor) -> None:
        if digest not in self._kept:
            self._kept[digest] = tokens
            self._num_bytes += tokens.nbytes
        while self._num_bytes > self._budget_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._num_bytes -= dropped.nbytes
