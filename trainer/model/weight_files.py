"""Tensors in files: headers first, then one tensor at a time.

A file is opened by its suffix, safetensors here and `.pt` in `torch_files`; both map the file
into memory, so that reading a tensor takes no memory of its own until it is copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError, safe_open

from trainer.model.layouts import CheckpointError, Header
from trainer.model.torch_files import TorchFile, TorchFileError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHARD = re.compile(r".+-\d+-of-\d+\.safetensors")


class WeightFile(Protocol):
    """An open file of named tensors."""

    def headers(self) -> Iterator[Header]:
        """What the file holds."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU, in the dtype of the file."""
        ...


class SafetensorsFile(AbstractContextManager["SafetensorsFile"]):
    """A `.safetensors` file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = safe_open(path, framework="pt")

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def headers(self) -> Iterator[Header]:
        for name in self._file.keys():  # noqa: SIM118 - it is no mapping
            part = self._file.get_slice(name)
            dtype = part.get_dtype()
            if dtype not in _DTYPES:
                raise CheckpointError(f"{self._path}: {name} is {dtype}, which is not known here.")
            yield Header(
                path=self._path, name=name, dtype=_DTYPES[dtype], shape=tuple(part.get_shape())
            )

    def tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)


def open_weights(path: Path) -> SafetensorsFile | TorchFile:
    """Open a file of tensors; use it as a context.

    Raises:
        CheckpointError: It is cut short, or not what its suffix says.
    """
    try:
        if path.suffix == ".pt":
            return TorchFile(path)
        return SafetensorsFile(path)
    except (SafetensorError, TorchFileError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); fetch it again.") from error


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights of a checkpoint.

    In this order: the shards of the index, `model.safetensors`, the only other `.safetensors` file,
    the only `.pt` file.

    Raises:
        CheckpointError: There is none, or a shard is missing, or it is not clear which is meant.
    """
    index = directory / INDEX_FILE
    if index.is_file():
        return _shards(index)
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    for suffix in (".safetensors", ".pt"):
        found = sorted(directory.glob(f"*{suffix}"))
        if len(found) == 1 and not _SHARD.fullmatch(found[0].name):
            return found
        if found:
            names = ", ".join(path.name for path in found)
            raise CheckpointError(
                f"{directory} holds {names} and no {INDEX_FILE}: it is not clear which files make"
                " the model. Fetch the index as well, or leave one file."
            )
    raise CheckpointError(f"{directory} holds no weights ({WEIGHTS_FILE}, its shards, or a .pt).")


def _shards(index: Path) -> list[Path]:
    try:
        named = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards; fetch it again.") from error
    paths = [index.parent / name for name in sorted(named)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} names; fetch them."
        )
    stray = {path.name for path in index.parent.glob("*.safetensors")} - named
    if stray := sorted(name for name in stray if _SHARD.fullmatch(name)):
        raise CheckpointError(
            f"{index} does not name {', '.join(stray)}, which lie beside it: the index and the"
            " shards are of different downloads. Fetch the model again."
        )
    return paths
