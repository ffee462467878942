"""Files of `torch.save`: the only place that unpickles, and then nothing but tensors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import torch

from trainer.model.layouts import Header

_WRAPPERS = ("state_dict", "model")


class TorchFileError(ValueError):
    """Not a file of tensors."""


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote: tensors, numbers, strings, dicts and lists, nothing that runs.

    Raises:
        TorchFileError: It is no such file, is cut short, or holds objects that would need code.
    """
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TorchFileError(f"no file of tensors that is safe to open: {reason}") from error


class TorchFile(AbstractContextManager["TorchFile"]):
    """A `.pt` file that holds a state dict, bare or under `state_dict` or `model`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = read_torch_file(path)
        for wrapper in _WRAPPERS:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
        if not isinstance(content, Mapping) or not all(
            isinstance(value, torch.Tensor) for value in content.values()
        ):
            raise TorchFileError("it holds something else than a state dict")
        self._tensors: Mapping[str, torch.Tensor] = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tensors = {}

    def headers(self) -> Iterator[Header]:
        for name, tensor in self._tensors.items():
            yield Header(path=self._path, name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]
