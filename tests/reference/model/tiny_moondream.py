"""Tiny configs for checks against naive loops; no image is larger than 84 pixels here."""

from __future__ import annotations

from typing import Any

from trainer.model.published_config import MoondreamConfig

TEMPLATES = {
    "caption": {"short": [1, 20, 2, 21, 3], "normal": [1, 20, 2, 22, 3], "long": [1, 20, 2, 23, 3]},
    "query": {"prefix": [1, 24, 2], "answer_prefix": [3], "reasoning_prefix": [4]},
    "detect": {"prefix": [1, 25, 2], "suffix": [3]},
    "point": {"prefix": [1, 27, 2], "suffix": [3]},
    "segment": None,
}


def tiny_config(model_type: str = "moondream3", **text: Any) -> MoondreamConfig:
    """Width 32, three layers, experts from layer 1, a 6 x 6 grid; `text` overrides text fields."""
    moe = {"num_experts": 6, "start_layer": 1, "experts_per_token": 3, "expert_inner_dim": 10}
    return MoondreamConfig.from_published(
        {
            "model_type": model_type,
            "config": {
                "text": {
                    "dim": 32, "ff_dim": 48, "n_layers": 3, "n_heads": 2,
                    "vocab_size": 64, "max_context": 256,
                    "moe": moe if model_type == "moondream3" else None, **text,
                },
                "vision": {
                    "enc_dim": 16, "enc_n_layers": 2, "enc_ff_dim": 24, "enc_n_heads": 2,
                    "enc_patch_size": 7,
                    "crop_size": 42, "max_crops": 6, "overlap_margin": 1, "proj_inner_dim": 24,
                },
                "region": {
                    "coord_feat_dim": 16, "size_feat_dim": 16,
                    **({"inner_dim": 20} if model_type == "moondream1" else {}),
                },
                "tokenizer": {"templates": TEMPLATES},
            },
        }
    )  # fmt: skip
