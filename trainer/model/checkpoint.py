"""Published model files in and out.

A directory holds `config.json` and weights in one of the layouts of `layouts`, in the files that
`weight_files` finds. They are read strictly: every tensor that is missing, unexpected or of another
shape is named, before anything is loaded. Loading builds the model without memory and streams
tensor by tensor to the device, so the host never holds more than the model and one tensor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.model.config import Family
from trainer.model.layouts import (
    CheckpointError,
    Header,
    Layout,
    Recipe,
    Step,
    layout_of,
    recipes,
)
from trainer.model.moe import ExpertWeights, widened
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.weight_files import WEIGHTS_FILE, WeightFile, open_weights, weight_files

CONFIG_FILE = "config.json"

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those of all tensors."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A directory whose headers were read and found to make a model.

    Attributes:
        config: Sizes and templates.
        recipes: How each tensor of the model is made of what the files hold.
    """

    directory: Path
    config: MoondreamConfig
    recipes: Mapping[str, Recipe]

    @property
    def num_bytes(self) -> int:
        """Of everything that loading reads."""
        return sum(recipe.num_bytes for recipe in self.recipes.values())

    @property
    def has_fp8(self) -> bool:
        return any(recipe.scale is not None for recipe in self.recipes.values())

    @property
    def layout(self) -> Layout:
        return layout_of(next(iter(self.recipes.values())).stored.name)

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """What is stored in each dtype, such as `bfloat16`; the largest first."""
        found: Counter[str] = Counter()
        for recipe in self.recipes.values():
            scale_bytes = recipe.scale.num_bytes if recipe.scale else 0
            found[_dtype_name(recipe.stored)] += recipe.num_bytes - scale_bytes
            if recipe.scale:
                found[_dtype_name(recipe.scale)] += scale_bytes
        return dict(found.most_common())

    @property
    def stored_dtype(self) -> torch.dtype:
        """What its dense matrices are stored in, float32 or bfloat16; experts may be in fp8."""
        dtype = self.recipes["model.text.blocks.0.attn.qkv.weight"].stored.dtype
        return torch.float32 if dtype == torch.float32 else torch.bfloat16

    @property
    def paths(self) -> list[Path]:
        """The files it lies in."""
        read = {recipe.stored.path for recipe in self.recipes.values()}
        read |= {recipe.scale.path for recipe in self.recipes.values() if recipe.scale}
        return sorted(read)


def inspect_checkpoint(directory: str | Path) -> Checkpoint:
    """Read config and headers, and check every tensor against the config.

    Raises:
        CheckpointError: Files are missing, or tensors are missing, unexpected, or of another shape.
        ValueError: The config contradicts itself, or a file cannot be read.
    """
    directory = Path(directory)
    headers = []
    for path in weight_files(directory):
        with open_weights(path) as file:
            headers += file.headers()
    made = recipes(headers)
    config = _load_config(directory, family_of(made))
    _check_tensors(config, made, directory)
    return Checkpoint(directory=directory, config=config, recipes=made)


def load_model(
    directory: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    keep_fp8: bool = False,
    on_progress: Progress | None = None,
) -> Moondream:
    """Load a model in eval mode, one tensor at a time, each cast to `dtype` and moved to `device`.

    Args:
        keep_fp8: Leave experts that are stored in fp8 as they are, at half the memory of bfloat16;
            they are widened when they are multiplied.

    Raises:
        CheckpointError: Files are missing, or tensors are missing, unexpected, or of another shape.
        ValueError: The config contradicts itself, or a file cannot be read.
    """
    return load_checkpoint(
        inspect_checkpoint(directory), device, dtype, keep_fp8=keep_fp8, on_progress=on_progress
    )


def load_checkpoint(
    checkpoint: Checkpoint,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    keep_fp8: bool = False,
    on_progress: Progress | None = None,
) -> Moondream:
    """Load what was inspected; see `load_model`."""
    with torch.device("meta"):
        model = Moondream(checkpoint.config)
    total, done = checkpoint.num_bytes, 0
    with ExitStack() as stack:
        files = {path: stack.enter_context(open_weights(path)) for path in checkpoint.paths}
        for name, recipe in checkpoint.recipes.items():
            if keep_fp8 and recipe.scale is not None:
                _assign_fp8(model, name, recipe, files, device)
            else:
                _assign(model, name, _made(recipe, files, device=device, dtype=dtype))
            done += recipe.num_bytes
            if on_progress is not None:
                on_progress(done, total)
    return model.eval()


def _dtype_name(header: Header) -> str:
    return str(header.dtype).removeprefix("torch.")


def made_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model by its name in `state_dict()`, one at a time, on the CPU.

    In the dtype of the file; fp8 is widened to float32.
    """
    with ExitStack() as stack:
        files = {path: stack.enter_context(open_weights(path)) for path in checkpoint.paths}
        for name, recipe in checkpoint.recipes.items():
            yield name, _made(recipe, files, device="cpu")


def _made(
    recipe: Recipe,
    files: Mapping[Path, WeightFile],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The tensor of the model, in memory of its own.

    Args:
        dtype: What it becomes; absent: as stored, float32 for fp8.
    """
    tensor = files[recipe.stored.path].tensor(recipe.stored.name)
    if recipe.scale is not None:
        scale = _scale(recipe.scale, files)
        return _widened_by_expert(tensor, scale, device=device, dtype=dtype or torch.float32)
    half = tensor.shape[0] // 2 if tensor.ndim else 0
    match recipe.step:
        case Step.TRANSPOSED:
            tensor = tensor.T
        case Step.UPPER_HALF:
            tensor = tensor[:half]
        case Step.LOWER_HALF:
            tensor = tensor[half:]
    return tensor.to(device, dtype or tensor.dtype, copy=True).contiguous()


def _widened_by_expert(
    fp8_EOI: Tensor, scale_EO: Tensor, *, device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    """[E, out, in]; each expert is multiplied in float32 and rounded once."""
    wide_EOI = torch.empty(fp8_EOI.shape, dtype=dtype, device=device)
    for wide, fp8, scale in zip(wide_EOI, fp8_EOI, scale_EO, strict=True):
        wide.copy_(widened(fp8.to(device), scale.to(device)))
    return wide_EOI


def _scale(header: Header, files: Mapping[Path, WeightFile]) -> Tensor:
    return files[header.path].tensor(header.name).float()


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter on the meta device by a real one."""
    owner_name, _, leaf = name.rpartition(".")
    parameter = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    setattr(model.get_submodule(owner_name), leaf, parameter)


def _assign_fp8(
    model: nn.Module,
    name: str,
    recipe: Recipe,
    files: Mapping[Path, WeightFile],
    device: torch.device | str,
) -> None:
    assert recipe.scale is not None
    experts = model.get_submodule(name.rpartition(".")[0])
    assert isinstance(experts, ExpertWeights)
    fp8 = files[recipe.stored.path].tensor(recipe.stored.name).to(device, copy=True)
    experts.keep_fp8(fp8, _scale(recipe.scale, files).to(device, copy=True))


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
    try:
        return MoondreamConfig.from_file(path, family=family)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is no JSON ({error}); fetch it again.") from error


def _check_tensors(config: MoondreamConfig, made: Mapping[str, Recipe], directory: Path) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in Moondream(config).state_dict().items()}
    problems = [
        f"missing {name} {list(shape)}" for name, shape in wanted.items() if name not in made
    ]
    for name, recipe in made.items():
        if name not in wanted:
            problems.append(f"unexpected {recipe.stored}")
        elif recipe.shape != wanted[name]:
            fitting = list(recipe.stored_shape(wanted[name]))
            problems.append(f"misshapen {recipe.stored}, wanted {fitting}")
    if problems:
        listed = "\n  ".join(problems)
        raise CheckpointError(
            f"{directory}: {len(problems)} tensors do not fit the config:\n  {listed}"
        )
