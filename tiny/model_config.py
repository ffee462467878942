"""The tiny Moondream: the Moondream 3 architecture in miniature, every part of it present."""

from __future__ import annotations

from tiny.tokenizer import VOCAB_SIZE, tokenizer_config
from trainer.model.published_config import MoondreamConfig

TINY: dict[str, object] = {
    "text": {
        "dim": 128,
        "ff_dim": 512,
        "n_layers": 5,
        "vocab_size": VOCAB_SIZE,
        "max_context": 1024,
        "n_heads": 4,
        "moe": {
            "num_experts": 8,
            "start_layer": 2,
            "experts_per_token": 2,
            "expert_inner_dim": 128,
        },
    },
    "vision": {
        "enc_dim": 96,
        "enc_patch_size": 7,
        "enc_n_layers": 4,
        "enc_ff_dim": 256,
        "enc_n_heads": 3,
        "crop_size": 84,
        "max_crops": 4,
        "overlap_margin": 2,
        "proj_inner_dim": 256,
    },
    "region": {"coord_feat_dim": 64, "size_feat_dim": 64},
}


def tiny_config() -> MoondreamConfig:
    """12 x 12 patches of 7 pixels, 5 text layers (2 dense, 3 of 8 experts), 1024 bins."""
    published = {**TINY, "tokenizer": tokenizer_config()}
    return MoondreamConfig.from_published({"model_type": "moondream3", "config": published})
