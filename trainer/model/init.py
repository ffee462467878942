"""How the weights of a Moondream start when it is trained from scratch.

Published checkpoints never pass here. A tiny model for tests and demonstrations does.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.model.attention import Tau
from trainer.model.mlp import DenseMlp
from trainer.model.moe import ExpertWeights
from trainer.model.region import RegionModel
from trainer.model.text import TextBlock, TextModel
from trainer.model.vision import VisionBlock, VisionModel

# Cycles across the image: all 1024 bins are told apart, neighbours stay similar.
FOURIER_STD_COORD = 10.0
FOURIER_STD_SIZE = 5.0
# About that of a fresh projection's image tokens, so that no source drowns another.
EMBEDDING_STD = 0.5
HEAD_STD = 0.02  # heads start near the uniform distribution


@torch.no_grad()
def init_module(module: nn.Module) -> None:
    """Set the weights a module owns itself; called for children before their parents.

    Linear maps and experts start normal with variance 1 / fan-in; maps that write into a residual
    stream are scaled down by the root of twice the number of layers; biases are zero; tau starts at
    factor 1.
    """
    if isinstance(module, nn.Linear):
        module.weight.normal_(0.0, 1 / math.sqrt(module.in_features))
        module.bias.zero_()
    elif isinstance(module, ExpertWeights):
        module.weight.normal_(0.0, 1 / math.sqrt(module.weight.shape[-1]))
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, Tau):
        module.wq.zero_()
        module.wv.zero_()
        module.alpha.zero_()
    elif isinstance(module, RegionModel):
        module.coord_features.normal_(0.0, FOURIER_STD_COORD)
        module.size_features.normal_(0.0, FOURIER_STD_SIZE)
        for decoder in (module.coord_decoder, module.size_decoder):
            last = decoder.fc2 if isinstance(decoder, DenseMlp) else decoder
            assert isinstance(last, nn.Linear)
            last.weight.normal_(0.0, HEAD_STD)
    elif isinstance(module, TextModel | VisionModel):
        if isinstance(module, TextModel):
            module.wte.normal_(0.0, EMBEDDING_STD)
            module.lm_head.weight.normal_(0.0, HEAD_STD)
        else:
            module.pos_emb.normal_(0.0, EMBEDDING_STD)
        scale = 1 / math.sqrt(2 * len(module.blocks))
        for block in module.blocks:
            assert isinstance(block, TextBlock | VisionBlock)
            block.attn.proj.weight.mul_(scale)
            block.mlp.fc2.weight.mul_(scale)
