"""From a checkpoint directory to a frozen model that is ready to answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from contract.engine import ModelInfo
from contract.skills import Skill
from trainer.adapters.lora import adapter_bytes_per_rank
from trainer.device_memory import find_shortage, storage_on
from trainer.memory import count_parameters
from trainer.model.checkpoint import Progress, inspect_checkpoint, load_checkpoint
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import TOKENIZER_FILE, Tokenizer
from trainer.model.tokenizer_check import tokenizer_problems
from trainer.skills import SKILLS, TUNABLE_SKILLS
from trainer.skills.base import Language

_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")
WORTH_TELLING_BYTES = 10**9
RECORD_FILE = "moontune.json"
"""How a pulled model came here, beside it; no part of the model."""
EXPORT_FILE = "export.json"
"""What an exported model was made of, beside it; no part of the model either."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LoadError(Exception):
    """The model cannot be loaded; the message is one sentence for who started the server."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    model: Moondream
    language: Language
    info: ModelInfo


def choose_device(device: str) -> torch.device:
    """`auto` takes the GPU if there is one.

    Raises:
        LoadError: It is no device that we know, or one that is not there.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if num_cuda else "cpu"
    if not _DEVICE.fullmatch(device):
        raise LoadError(f"--device {device} is not one of auto, cpu, cuda and cuda:N.")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= num_cuda:
        sees = f"sees {num_cuda} of them, numbered from 0" if num_cuda else "sees no CUDA device"
        raise LoadError(f"--device {device} was asked for, but torch {sees}.")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on the CPU."""
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    return DTYPES[dtype]


def load(
    directory: Path,
    *,
    name: str,
    device: str,
    dtype: str,
    tokenizer: Path | None = None,
    may_keep_fp8: bool = True,
    on_progress: Progress | None = None,
) -> LoadedModel:
    """Load, freeze and describe a checkpoint.

    Args:
        directory: config.json and weights in the Hugging Face layout.
        name: What the model is called on the wire.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32` or `bfloat16`.
        tokenizer: Its tokenizer.json; absent: the one in the directory.
        may_keep_fp8: Experts that are stored in fp8 may stay so, where the device can use them.
        on_progress: Called with the bytes loaded so far and those of all weights.

    Raises:
        LoadError: The directory is not a checkpoint, or the device is not there or too small.
    """
    if not (directory / "config.json").is_file():
        raise LoadError(
            f"{directory} holds no config.json; --model wants a checkpoint directory in the "
            "Hugging Face layout (config.json, model.safetensors, tokenizer.json) or the word tiny."
        )
    tokenizer = tokenizer or directory / TOKENIZER_FILE
    if not tokenizer.is_file():
        raise LoadError(f"{directory} holds no {TOKENIZER_FILE}; put the model's tokenizer there.")
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    try:
        checkpoint = inspect_checkpoint(directory)
        keeps_fp8 = may_keep_fp8 and checkpoint.has_fp8
        storage = storage_on(chosen_device, chosen_dtype, has_fp8=keeps_fp8)
        count = count_parameters(checkpoint.config)
        shortage = find_shortage(checkpoint.config, count, storage, chosen_device)
        if shortage is not None:
            raise LoadError(f"{name} {shortage}.")
        model = load_checkpoint(
            checkpoint,
            device=chosen_device,
            dtype=chosen_dtype,
            keep_fp8=storage.has_fp8_experts,
            on_progress=on_progress,
        )
    except ValueError as error:
        raise LoadError(str(error)) from error
    model.eval().requires_grad_(False)
    config = cast("MoondreamConfig", model.config)
    language = Language(
        tokenizer=_fitting_tokenizer(tokenizer, config),
        ids=config.tokenizer,
        vocab_size=config.text.vocab_size,
        coord_divisor=config.region.coord_divisor,
        rounding=chosen_dtype if config.region.round_decoded_values else None,
    )
    info = ModelInfo(
        name=name,
        family=config.family.value,
        digest=checkpoint_digest(directory),
        device=str(chosen_device),
        dtype=str(chosen_dtype).removeprefix("torch."),
        num_parameters=count.total,
        max_context=config.text.max_context,
        skills=tuple(skill.value for skill in SKILLS if _has(config, skill)),
        tunable_skills=tuple(skill.value for skill in TUNABLE_SKILLS),
        adapter_bytes_per_rank=adapter_bytes_per_rank(config.text),
    )
    return LoadedModel(model=model, language=language, info=info)


def _has(config: MoondreamConfig, skill: Skill) -> bool:
    return skill is not Skill.SEGMENT or config.tokenizer.templates.segment is not None


def _fitting_tokenizer(path: Path, config: MoondreamConfig) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises its base class
        raise LoadError(f"{path} is no tokenizer file ({error}); fetch it again.") from error
    if problems := tokenizer_problems(tokenizer, config):
        raise LoadError(
            f"{path} is not the tokenizer of this model: {'; '.join(problems)}. All published"
            f" models use {TOKENIZER_FILE} of moondream/starmie-v1."
        )
    return tokenizer


def in_percent(tell: Callable[[str], None]) -> Progress:
    """A progress that tells each new ten percent, such as "40 % of 18.5 GB".

    Small models load before one could read it; of them nothing is told.
    """
    told = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        tenths = 10 * done // max(1, total)
        if total >= WORTH_TELLING_BYTES and tenths > told:
            told = tenths
            tell(f"{10 * tenths} % of {total / 1e9:.1f} GB")

    return on_progress


def checkpoint_digest(directory: Path) -> str:
    """SHA-256 (hex) over names and contents of configuration, tokenizer and weights."""
    digest, beside = hashlib.sha256(), (RECORD_FILE, EXPORT_FILE)
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".safetensors", ".pt") and path.name not in beside:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
