"""`moontune model inspect`: what a checkpoint directory holds and what it needs, unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer import memory
from trainer.catalog.store import read_record
from trainer.device_memory import readable_bytes
from trainer.engine import DEFAULT_MICRO_BATCH_TOKENS
from trainer.loading import LoadError
from trainer.memory import ParameterCount, Storage
from trainer.model.checkpoint import Checkpoint, inspect_checkpoint
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import TOKENIZER_FILE, Tokenizer
from trainer.model.tokenizer_check import tokenizer_problems


def report(directory: Path, *, rank: int) -> list[str]:
    """Lines for a person.

    Raises:
        ValueError: It is no checkpoint, or the rank does not go with it.
        LoadError: Its record cannot be read.
    """
    checkpoint = inspect_checkpoint(directory)
    count = memory.count_parameters(checkpoint.config)
    lines = [f"{name:<12}{value}" for name, value in _facts(directory, checkpoint, count)]
    lines += ["", *columns(_table(checkpoint.config, list(_storages(checkpoint)), count, rank))]
    return lines


def report_json(directory: Path, *, rank: int) -> dict[str, Any]:
    """The same for programs.

    Raises:
        ValueError: It is no checkpoint, or the rank does not go with it.
        LoadError: Its record cannot be read.
    """
    checkpoint = inspect_checkpoint(directory)
    count = memory.count_parameters(checkpoint.config)
    head, *rows = _table(checkpoint.config, list(_storages(checkpoint)), count, rank)
    facts = {name.replace(" ", "_"): v for name, v in _facts(directory, checkpoint, count)}
    return {
        **facts,
        "num_parameters": count.total,
        "memory": {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows},
    }


def _facts(directory: Path, checkpoint: Checkpoint, count: ParameterCount) -> list[tuple[str, str]]:
    config = checkpoint.config
    return [
        ("directory", str(directory)),
        ("family", config.family.value),
        ("layout", f"{checkpoint.layout.value}, {_files(checkpoint)}"),
        ("stored as", _stored(checkpoint)),
        ("parameters", _parameters(count)),
        ("context", f"{config.text.max_context:,} positions"),
        ("tokenizer", _tokenizer(directory, config)),
        *_provenance(directory),
    ]


def check(directory: Path) -> None:
    """See whether a directory could be loaded, as far as headers tell.

    Raises:
        LoadError: It could not.
    """
    try:
        checkpoint = inspect_checkpoint(directory)
    except ValueError as error:
        raise LoadError(f"It is complete, but cannot be loaded: {error}") from error
    if not (verdict := _tokenizer(directory, checkpoint.config)).startswith("fits"):
        raise LoadError(f"It is complete, but its tokenizer is no good: {verdict}.")


def _files(checkpoint: Checkpoint) -> str:
    paths = checkpoint.paths
    return paths[0].name if len(paths) == 1 else f"{len(paths)} files"


def _stored(checkpoint: Checkpoint) -> str:
    parts = (f"{readable_bytes(size)} {dtype}" for dtype, size in checkpoint.bytes_by_dtype.items())
    return f"{', '.join(parts)}; {readable_bytes(checkpoint.num_bytes)} in all"


def _parameters(count: ParameterCount) -> str:
    experts = f", {count.in_experts / 1e6:,.2f} M of them in experts" if count.in_experts else ""
    return f"{count.total / 1e6:,.2f} M{experts}"


def _tokenizer(directory: Path, config: MoondreamConfig) -> str:
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return f"missing: the model cannot be served without {TOKENIZER_FILE}"
    try:
        problems = tokenizer_problems(Tokenizer.from_file(path), config)
    except Exception as error:  # the library raises its base class
        return f"cannot be read ({error})"
    return f"does not fit: {'; '.join(problems)}" if problems else "fits the model"


def _provenance(directory: Path) -> list[tuple[str, str]]:
    record = read_record(directory)
    if record is None:
        return [("licence", "not recorded: this was not pulled by `moontune model pull`")]
    return [
        ("pulled", f"{record.repository}, revision {record.revision}, {record.pulled_at}"),
        ("licence", f"{record.licence.name}: {record.licence.meaning}"),
    ]


def _storages(checkpoint: Checkpoint) -> Iterator[Storage]:
    """How it could be loaded."""
    if checkpoint.has_fp8:
        yield Storage(dtype=torch.bfloat16, has_fp8_experts=True)
    yield Storage(dtype=torch.bfloat16)
    yield Storage(dtype=torch.float32)


def _table(
    config: MoondreamConfig, storages: list[Storage], count: ParameterCount, rank: int
) -> list[list[str]]:
    """Memory by what it is for, a column for each way to hold the weights."""
    sequences, positions = memory.SERVED_SEQUENCES, memory.SERVED_POSITIONS
    num_trained = DEFAULT_MICRO_BATCH_TOKENS
    rows = [["memory", *(str(storage) for storage in storages)]]

    def add(name: str, values: list[int]) -> None:
        rows.append([name, *(readable_bytes(value) for value in values)])

    weights = [memory.weight_bytes(count, storage) for storage in storages]
    pictures = [memory.picture_bytes(config, storage.dtype) for storage in storages]
    caches = [memory.kv_bytes(config, s.dtype, num_sequences=sequences) for s in storages]
    adapters = [memory.adapter_bytes(config, rank)] * len(storages)
    activations = [
        memory.activation_bytes(config, storage.dtype, num_positions=num_trained)
        for storage in storages
    ]
    add("weights", weights)
    add("a picture (estimate)", pictures)
    add(f"{sequences} sequences of {min(positions, config.text.max_context)} positions", caches)
    add("serving, together", [sum(parts) for parts in zip(weights, pictures, caches, strict=True)])
    add(f"adapter of rank {rank} and its optimizer", adapters)
    recomputed = [
        memory.recomputed_bytes(config, storage.dtype, num_positions=num_trained)
        for storage in storages
    ]
    add(f"activations of {num_trained:,} positions (estimate)", activations)
    add("the same, layers computed again", recomputed)
    add(
        "training, together",
        [sum(parts) for parts in zip(weights, adapters, activations, strict=True)],
    )
    add(
        "training, layers computed again",
        [sum(parts) for parts in zip(weights, adapters, recomputed, strict=True)],
    )
    return rows


def columns(rows: list[list[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
