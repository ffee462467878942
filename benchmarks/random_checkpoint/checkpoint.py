"""A checkpoint of random weights: on disk as if it had been published, or in memory."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_checkpoint.layouts import hf_tensors, text_model_tensors
from benchmarks.random_checkpoint.streamed_file import StoredTensor, in_shards, write_file
from benchmarks.random_checkpoint.values import RandomValues
from tiny.model_config import TINY
from tiny.tokenizer import VOCAB_SIZE, tokenizer_config
from trainer.model.checkpoint import CONFIG_FILE
from trainer.model.config import Family
from trainer.model.layouts import Layout
from trainer.model.moondream import Moondream
from trainer.model.published_config import MODEL_TYPE_OF_FAMILY, MoondreamConfig
from trainer.model.tokenizer import TOKENIZER_FILE
from trainer.model.weight_files import INDEX_FILE, WEIGHTS_FILE

ROOT = Path(__file__).parent.parent.parent
TOKENIZER = ROOT / "tiny" / "checkpoint" / TOKENIZER_FILE
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True)
class RandomCheckpoint:
    """Which one.

    Attributes:
        has_fp8: Experts as Moondream 3.1 stores them, in its layout only.
        dtype: Of everything but fp8 experts and their scales.
        scale: "full" is the published geometry, "small" that of the tiny model.
        device: Where values are drawn; another kind of device draws others.
    """

    family: Family
    layout: Layout = Layout.HUGGING_FACE
    has_fp8: bool = False
    dtype: torch.dtype = torch.bfloat16
    scale: str = "full"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.has_fp8 and (self.family, self.layout) != (Family.MOONDREAM3, Layout.OLDER):
            raise ValueError("fp8 experts exist for moondream3 in the text_model layout only")

    @cached_property
    def published_config(self) -> dict[str, Any]:
        """The content of config.json; what follows from the family is left out, as in published
        ones."""
        sizes = _small_sizes(self.family) if self.scale == "small" else {}
        config = {**sizes, "tokenizer": tokenizer_config(self.family.value)}
        if self.has_fp8:  # Moondream 3.1 does not say what it is
            return {"config": config}
        return {"model_type": MODEL_TYPE_OF_FAMILY[self.family], "config": config}

    @cached_property
    def config(self) -> MoondreamConfig:
        return MoondreamConfig.from_published(self.published_config, family=self.family)

    @cached_property
    def _values(self) -> RandomValues:
        return RandomValues(self.config, seed=self.seed, device=self.device)

    def tensors(self) -> list[StoredTensor]:
        """What the weights files hold; nothing is drawn yet."""
        if self.layout is Layout.HUGGING_FACE:
            return hf_tensors(self._values, self.dtype)
        return text_model_tensors(self._values, self.dtype, has_fp8=self.has_fp8)

    def build(self) -> Moondream:
        """The model on the device, without a file; experts in `dtype`."""
        with torch.device("meta"):
            model = Moondream(self.config)
        tensors = {name: self._values.tensor(name).to(self.dtype) for name in self._values.shapes}
        model.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    def write(self, directory: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        """Write config, tokenizer and weights, with one tensor in memory.

        Args:
            shard_bytes: Most that a file of the Hugging Face layout holds; the other is one file.

        Raises:
            FileExistsError: There is something in the directory.
        """
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise FileExistsError(f"{directory} is not empty")
        tensors = self.tensors()
        is_sharded = self.layout is Layout.HUGGING_FACE
        shards = in_shards(tensors, shard_bytes) if is_sharded else [tensors]
        if len(shards) == 1:
            write_file(directory / WEIGHTS_FILE, tensors)
        else:
            _write_shards(directory, shards)
        (directory / CONFIG_FILE).write_text(json.dumps(self.published_config, indent=1) + "\n")
        shutil.copy(TOKENIZER, directory / TOKENIZER_FILE)


def _write_shards(directory: Path, shards: list[list[StoredTensor]]) -> None:
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    num_bytes = sum(tensor.num_bytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n")


def _small_sizes(family: Family) -> dict[str, Any]:
    """The tiny model's, with ids beyond its tokenizer, as there are at full scale."""
    sizes: dict[str, Any] = copy.deepcopy(TINY)
    sizes["text"]["vocab_size"] = 2 * VOCAB_SIZE
    if family is Family.MOONDREAM2:
        sizes["text"]["moe"] = None
        sizes["region"]["inner_dim"] = 4 * sizes["text"]["dim"]
    return sizes
