"""The random weights themselves, drawn by name, one tensor at a time.

Scales are those of `trainer.model.init`, so that hidden states keep their size through the layers.
Unlike there nothing is constant, so that a mix-up of names shows.
"""

from __future__ import annotations

import hashlib
import math
import re

import torch
from torch import Tensor

from trainer.model.init import EMBEDDING_STD, FOURIER_STD_COORD, FOURIER_STD_SIZE, HEAD_STD
from trainer.model.layouts import FP8
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig

EXPERTS = re.compile(r"model\.text\.blocks\.(\d+)\.mlp\.(fc1|fc2)\.weight")
"""Dense layers spell theirs in the same way; only experts have three axes."""

NORM_STD, BIAS_STD = 0.1, 0.02
UNLIKELY, LIKELY = -3.0, 3.0  # logits of the end of text, and of one more point or box
FP8_SIGMAS = 6.0  # what the largest fp8 number stands for, in standard deviations

_STDS = {
    r"model\.text\.wte|model\.vision\.pos_emb": EMBEDDING_STD,
    r"model\.text\.lm_head\.weight": HEAD_STD,
    r"model\.region\.(coord|size)_decoder\.(fc2\.)?weight": HEAD_STD,
    r"model\.region\.coord_features": FOURIER_STD_COORD,
    r"model\.region\.size_features": FOURIER_STD_SIZE,
}
_INTO_RESIDUAL = re.compile(r"model\.(text|vision)\.blocks\.\d+\.(?:attn\.proj|mlp\.fc2)\.weight")


class RandomValues:
    """Weights that depend on a seed, their names in `Moondream.state_dict()`, and the device.

    Attributes:
        shapes: Of every tensor of the model.
    """

    def __init__(self, config: MoondreamConfig, *, seed: int, device: str) -> None:
        self._config = config
        self._seed = seed
        self._device = device
        with torch.device("meta"):
            state = Moondream(config).state_dict()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def tensor(self, name: str) -> Tensor:
        """float32, on the device."""
        mean, std = self._moments(name)
        tensor = torch.empty(self.shapes[name], device=self._device)
        tensor.normal_(mean, std, generator=self._generator(name))
        if name == "model.text.lm_head.bias":
            tensor[self._config.tokenizer.eos_id] = UNLIKELY
            tensor[self._config.tokenizer.coord_id] = LIKELY
        return tensor

    def fp8(self, name: str) -> Tensor:
        """Experts [E, out, in] divided by `row_scales`, rounded."""
        largest = torch.finfo(FP8).max
        divided = self.tensor(name).div_(self.row_scales(name)[..., None])
        return divided.clamp_(-largest, largest).to(FP8)  # not every torch does so itself

    def row_scales(self, name: str) -> Tensor:
        """[E, out] float32; each row has its own."""
        least = FP8_SIGMAS * self._moments(name)[1] / torch.finfo(FP8).max
        scales = torch.empty(self.shapes[name][:2], device=self._device)
        return scales.uniform_(least, 1.1 * least, generator=self._generator(f"{name} scale"))

    def is_experts(self, name: str) -> bool:
        return len(self.shapes[name]) == 3 and EXPERTS.fullmatch(name) is not None

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        return torch.Generator(self._device).manual_seed(int.from_bytes(digest[:7], "big"))

    def _moments(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation."""
        shape = self.shapes[name]
        if len(shape) == 1:
            is_norm = name.endswith(".weight")
            return (1.0, NORM_STD) if is_norm else (0.0, BIAS_STD)
        for pattern, std in _STDS.items():
            if re.fullmatch(pattern, name):
                return 0.0, std
        std = 1 / math.sqrt(shape[-1])
        if match := _INTO_RESIDUAL.fullmatch(name):
            is_text = match[1] == "text"
            depth = self._config.text.n_layers if is_text else self._config.vision.enc_n_layers
            std /= math.sqrt(2 * depth)
        return 0.0, std
