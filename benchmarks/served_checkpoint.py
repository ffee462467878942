"""The checkpoint that `benchmarks.rollouts_http` serves: dense family, small, answers never end.

The text model has the sizes of `benchmarks.rollout_sides`, and a picture takes as many positions as
in the published Moondream 2 (crops of 378 pixels, patches of 14: 729 tokens). The vision tower is
narrow, but real: a picture costs time. Weights are random; the biases of the end of text, of a
coordinate and of a size make them practically impossible, so that an answer is text and as long as
it may be. The tokenizer is that of the tiny model; ids beyond its 512 decode to nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.random_checkpoint.checkpoint import TOKENIZER
from benchmarks.random_checkpoint.layouts import hf_tensors
from benchmarks.random_checkpoint.streamed_file import write_file
from benchmarks.random_checkpoint.values import RandomValues
from tiny.tokenizer import tokenizer_config
from trainer.model.checkpoint import CONFIG_FILE
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import TOKENIZER_FILE
from trainer.model.weight_files import WEIGHTS_FILE

IMPOSSIBLE = -1e4  # a logit whose probability is 0 in float64

PUBLISHED: dict[str, Any] = {
    "model_type": "moondream1",
    "config": {
        "text": {
            "dim": 256, "ff_dim": 1024, "n_layers": 8, "n_heads": 4,
            "vocab_size": 2048, "max_context": 1024,
        },
        "vision": {
            "enc_dim": 192, "enc_n_layers": 4, "enc_ff_dim": 768, "enc_n_heads": 3,
            "proj_inner_dim": 1024,
        },
        "region": {"inner_dim": 256},
        "tokenizer": tokenizer_config("moondream2"),
    },
}  # fmt: skip


class EndlessText(RandomValues):
    """Random weights that write text and never stop by themselves."""

    def tensor(self, name: str) -> Tensor:
        tensor = super().tensor(name)
        if name == "model.text.lm_head.bias":
            ids = self._config.tokenizer
            tensor[[ids.eos_id, ids.coord_id, ids.size_id]] = IMPOSSIBLE
        return tensor


def write_checkpoint(directory: Path) -> None:
    """Write config, float32 weights in the Hugging Face layout, and tokenizer; the same each time.

    Args:
        directory: Is made; there must be none.
    """
    directory.mkdir(parents=True)
    config = MoondreamConfig.from_published(PUBLISHED)
    values = EndlessText(config, seed=0, device="cpu")
    write_file(directory / WEIGHTS_FILE, hf_tensors(values, torch.float32))
    (directory / CONFIG_FILE).write_text(json.dumps(PUBLISHED, indent=1) + "\n")
    shutil.copy(TOKENIZER, directory / TOKENIZER_FILE)
