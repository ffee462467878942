"""Three public readers of checkpoint files, written from the rules that they are known to follow.

Each takes the bytes of a file and returns `{(part, index, factor): tensor}`, part being `dense` or
`moe`; nothing of trainer/ is used. Source of the rules: http-api.md section 12.6.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Key = tuple[str, int, str]
Factors = dict[Key, Tensor]

PREFIX = "text_lora."
NAME = re.compile(r"(dense|moe)\.(\d+)\.(up_a|up_b|down_a|down_b)$")
MAX_KESTREL_RANK = 32
MAX_LOADER_RANK = 16


def kestrel(file: bytes, shapes: Mapping[Key, torch.Size]) -> Factors:
    """Knows its names in advance and demands every one; the first tensor tells the rank."""
    tensors = _state_dict(file)
    assert next(iter(tensors)) == f"{PREFIX}dense.0.up_a"
    rank = next(iter(tensors.values())).shape[0]
    assert rank <= MAX_KESTREL_RANK, f"rank {rank} is above {MAX_KESTREL_RANK}"
    taken = {}
    for part, index, factor in shapes:
        name = f"{PREFIX}{part}.{index}.{factor}"
        assert name in tensors, f"{name} is missing"
        taken[part, index, factor] = tensors.pop(name)
    assert not tensors, f"not expected: {list(tensors)}"
    _check(taken, shapes)
    return taken


def torch_loader(file: bytes, shapes: Mapping[Key, torch.Size]) -> Factors:
    """Lenient: what it finds replaces random weights, so a name that is off is never told."""
    generator = torch.Generator().manual_seed(0)
    taken = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for name, tensor in _state_dict(file).items():
        if (key := _key(name)) in taken:
            taken[key].copy_(tensor)
    assert taken["dense", 0, "up_a"].shape[0] <= MAX_LOADER_RANK
    return taken


def mlx_loader(file: bytes, shapes: Mapping[Key, torch.Size]) -> Factors:
    """Has no bfloat16 from torch: each tensor goes through a float32 array; every layer counts."""
    taken: Factors = {}
    for name, tensor in _state_dict(file).items():
        key = _key(name)
        assert key is not None, f"{name} is no factor"
        taken[key] = torch.from_numpy(tensor.float().numpy().copy())
    assert set(taken) == set(shapes), "layers are missing"
    assert taken["dense", 0, "up_a"].shape[0] <= MAX_LOADER_RANK
    _check(taken, shapes)
    return taken


READERS: dict[str, Callable[[bytes, Mapping[Key, torch.Size]], Factors]] = {
    "kestrel": kestrel,
    "torch": torch_loader,
    "MLX": mlx_loader,
}


def write_with(factors: Factors, base: Path, directory: Path) -> None:
    """Write the base model with `B @ A` added to its weights, in float32."""
    directory.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(base / name, directory)
    weights = {name: t.float() for name, t in load_file(base / "model.safetensors").items()}
    num_dense = len({index for part, index, _ in factors if part == "dense"})
    for part, index, factor in factors:
        if not factor.endswith("_a"):
            continue
        side = factor.removesuffix("_a")
        layer = index if part == "dense" else num_dense + index
        name = f"model.text.blocks.{layer}.mlp.{'fc1' if side == 'up' else 'fc2'}.weight"
        a, b = factors[part, index, factor].float(), factors[part, index, f"{side}_b"].float()
        weights[name] = weights[name] + b @ a
    save_file(weights, directory / "model.safetensors")


def shapes_of(base: Path, rank: int) -> dict[Key, torch.Size]:
    """The shapes of all factors on a base model, in the order of the file."""
    weights = {name: tensor.shape for name, tensor in load_file(base / "model.safetensors").items()}
    shapes: dict[Key, torch.Size] = {}
    text = json.loads((base / "config.json").read_text())["config"]["text"]
    counts = {"dense": 0, "moe": 0}
    layer = 0
    while (up := weights.get(f"model.text.blocks.{layer}.mlp.fc1.weight")) is not None:
        down = weights[f"model.text.blocks.{layer}.mlp.fc2.weight"]
        part = "dense" if len(up) == 2 else "moe"
        r = rank if part == "dense" else rank // text["moe"]["experts_per_token"]
        for side, (*experts, rows, columns) in (("up", up), ("down", down)):
            shapes[part, counts[part], f"{side}_a"] = torch.Size([*experts, r, columns])
            shapes[part, counts[part], f"{side}_b"] = torch.Size([*experts, rows, r])
        counts[part] += 1
        layer += 1
    return shapes


def _state_dict(file: bytes) -> dict[str, Tensor]:
    content = torch.load(io.BytesIO(file), weights_only=True, map_location="cpu")
    return dict(content["lora_state_dict"])


def _key(name: str) -> Key | None:
    found = NAME.search(name)
    return None if found is None else (found[1], int(found[2]), found[3])


def _check(taken: Factors, shapes: Mapping[Key, torch.Size]) -> None:
    wrong = {key: tensor.shape for key, tensor in taken.items() if tensor.shape != shapes[key]}
    assert not wrong, f"other shapes were expected: {wrong}"
