"""The whole model. `state_dict()` has the names of the published checkpoints."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from trainer.model.init import init_module
from trainer.model.published_config import MoondreamConfig
from trainer.model.region import RegionModel
from trainer.model.text import TextModel
from trainer.model.vision import VisionModel


class MoondreamParts(nn.Module):
    """Text, vision and region, under the name `model` that checkpoints give them."""

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.text = TextModel(config.text)
        self.vision = VisionModel(config.vision)
        self.region = RegionModel(config.region)


class Moondream(PreTrainedModel):
    """Moondream 2 or 3, by its config."""

    config_class = MoondreamConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__(config)
        self.model = MoondreamParts(config)
        self.post_init()

    @classmethod
    def from_scratch(cls, config: MoondreamConfig, *, seed: int) -> Moondream:
        """A model with random weights that depend on config and seed only; float32, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    @property
    def text(self) -> TextModel:
        return self.model.text

    @property
    def vision(self) -> VisionModel:
        return self.model.vision

    @property
    def region(self) -> RegionModel:
        return self.model.region

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """[...] int64 token ids to [..., D] embeddings."""
        return self.model.text.embed_tokens(ids)

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError("the embedding table is a bare parameter: use embed_tokens")

    def _init_weights(self, module: nn.Module) -> None:
        init_module(module)
