"""Published model files in and out.

A directory holds `config.json` and either `model.safetensors` or shards with
`model.safetensors.index.json`. Files are read strictly: every tensor that is missing, unexpected or
of another shape is named, before anything is loaded. Other published layouts are renamings of this
one; `model_names` is the place where they come in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from trainer.model.config import Family, MoondreamConfig
from trainer.model.moondream import Moondream

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Left behind by a reference that was saved while running.
_RUNTIME_TENSOR = re.compile(r"\.kv_cache\.")


class CheckpointError(ValueError):
    """A directory does not hold the model it should; the message names every wrong tensor."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor of the model lies: file, the name it has there, and its shape there."""

    path: Path
    name: str
    shape: tuple[int, ...]


def load_model(
    directory: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Moondream:
    """Load a model in eval mode, one tensor at a time, each cast to `dtype` and moved to `device`.

    Raises:
        CheckpointError: Files are missing, or tensors are missing, unexpected, or of another shape.
        ValueError: The config contradicts itself.
    """
    directory = Path(directory)
    stored = _stored_tensors(directory)
    config = _load_config(directory, family_of(stored))
    with torch.device("meta"):
        model = Moondream(config)
    _check_tensors(model, stored, directory)
    for path in sorted({tensor.path for tensor in stored.values()}):
        with safe_open(path, framework="pt") as file:
            for name, tensor in stored.items():
                if tensor.path == path:
                    _assign(
                        model, name, file.get_tensor(tensor.name).to(device=device, dtype=dtype)
                    )
    return model.eval()


def save_model(
    model: Moondream, directory: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write `config.json` and `model.safetensors`; weights in `dtype`, or as they are.

    The weights file appears under its name only when it is complete.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    partial = directory / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.rename(directory / WEIGHTS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps(model.config.to_published(), indent=1) + "\n")


def model_names(names: Iterable[str]) -> dict[str, str]:
    """Map names in a file to names in `Moondream.state_dict()`; leave out what is no weight.

    Accepts the HF layout with or without `model.` in front, and with the `._orig_mod` of compiled
    modules.
    """
    mapped = {}
    for name in names:
        if _RUNTIME_TENSOR.search(name):
            continue
        plain = name.replace("._orig_mod", "").removeprefix("_orig_mod.")
        mapped[name] = plain if plain.startswith("model.") else f"model.{plain}"
    return mapped


def family_of(names: Iterable[str]) -> Family | None:
    """Tell the family from the names of a model's tensors; None when they show neither."""
    names = list(names)
    if any(".attn.tau." in name for name in names):
        return Family.MOONDREAM3
    if any(".region." in name and ".fc1." in name for name in names):
        return Family.MOONDREAM2
    return None


def _load_config(directory: Path, family: Family | None) -> MoondreamConfig:
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    return MoondreamConfig.from_file(path, family=family)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if index.is_file():
        weight_map = json.loads(index.read_text())["weight_map"]
        paths = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        paths = [directory / WEIGHTS_FILE]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise CheckpointError(f"weight files do not exist: {', '.join(missing)}")
    return paths


def _stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All weights of a directory under their names in the model; reads headers only."""
    stored: dict[str, StoredTensor] = {}
    for path in _weight_files(directory):
        with safe_open(path, framework="pt") as file:
            for name, model_name in model_names(file.keys()).items():
                if model_name in stored:
                    raise CheckpointError(
                        f"{model_name} is in {stored[model_name].path} and again in {path}"
                    )
                shape = tuple(file.get_slice(name).get_shape())
                stored[model_name] = StoredTensor(path=path, name=name, shape=shape)
    return stored


def _check_tensors(model: Moondream, stored: dict[str, StoredTensor], directory: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [
        f"missing {name} {list(shape)}" for name, shape in wanted.items() if name not in stored
    ]
    for name, tensor in stored.items():
        where = f"{tensor.name} {list(tensor.shape)} in {tensor.path.name}"
        if name not in wanted:
            problems.append(f"unexpected {where}")
        elif tensor.shape != wanted[name]:
            problems.append(f"misshapen {where}, wanted {list(wanted[name])}")
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(
            f"{directory}: {len(problems)} tensors do not fit the config:\n  {listed}"
        )


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter on the meta device by a real one."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
