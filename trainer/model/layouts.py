"""How published files spell the tensors of a Moondream, as recipes for ours.

Two layouts are read: the Hugging Face one (`model.text.blocks.0.attn.qkv.weight`), which is that of
`Moondream.state_dict()`, and the older one of the makers' own trainer
(`text_model.transformer.h.0.mixer.Wqkv.weight`) with fused or split tau, transposed Fourier
features and, for Moondream 3, experts in fp8 with one scale per output row. `._orig_mod` of
compiled modules may stand anywhere, `model.` in front or not.

Nothing is read here but names, dtypes and shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

FP8 = torch.float8_e4m3fn

Shape = tuple[int, ...]


class CheckpointError(ValueError):
    """A directory does not hold the model it should; the message names every wrong tensor."""


class Layout(StrEnum):
    """Whose names the stored tensors have."""

    HUGGING_FACE = "Hugging Face names"
    OLDER = "text_model names"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of a tensor before it is read."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: Shape

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} in {self.path.name}"


class Step(StrEnum):
    """What happens to a stored tensor on its way."""

    AS_IS = "as is"
    TRANSPOSED = "transposed"
    UPPER_HALF = "upper half of the rows"
    LOWER_HALF = "lower half of the rows"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one tensor of the model is made of stored ones.

    Attributes:
        stored: The tensor.
        step: What is done to it.
        scale: For fp8: [E, out] float32, one factor per output row of each expert.
    """

    stored: Header
    step: Step = Step.AS_IS
    scale: Header | None = None

    @property
    def shape(self) -> Shape:
        """Of the tensor that it makes."""
        shape = self.stored.shape
        if self.step is Step.TRANSPOSED:
            return shape[::-1]
        if self.step in (Step.UPPER_HALF, Step.LOWER_HALF) and shape and shape[0] % 2 == 0:
            return (shape[0] // 2, *shape[1:])
        return shape

    def stored_shape(self, shape: Shape) -> Shape:
        """What the stored tensor would have to be for the model to get `shape`."""
        if self.step is Step.TRANSPOSED:
            return shape[::-1]
        if self.step in (Step.UPPER_HALF, Step.LOWER_HALF):
            return (2 * shape[0], *shape[1:])
        return shape

    @property
    def num_bytes(self) -> int:
        """That are read for it; a half counts as a half."""
        is_half = self.step in (Step.UPPER_HALF, Step.LOWER_HALF)
        own = self.stored.num_bytes // (2 if is_half else 1)
        return own + (0 if self.scale is None else self.scale.num_bytes)


def recipes(headers: Iterable[Header]) -> dict[str, Recipe]:
    """One recipe per tensor of the model, by its name in `Moondream.state_dict()`.

    Names that mean nothing to a layout keep their place, so that the caller can name them.

    Raises:
        CheckpointError: int4 weights, a tensor twice, or fp8 weights and scales that do not
            pair up.
    """
    made: dict[str, Recipe] = {}
    scales: dict[str, Header] = {}
    problems: list[str] = []
    for header in headers:
        plain = header.name.replace("._orig_mod", "").removeprefix("_orig_mod.")
        if plain.endswith((".weight.packed", ".weight.zero_point")):
            raise CheckpointError(
                f"{header.path.name} holds int4 weights ({header.name}), which cannot be trained"
                " on; use the bf16 or fp8 files of the same model."
            )
        if _RUNTIME_TENSOR.search(plain):
            continue
        if match := _SCALE.fullmatch(plain):
            scales[_scaled_tensor(match)] = header
            continue
        for name, step in _names(plain):
            if name in made:
                problems.append(f"{name} twice: {made[name].stored} and {header}")
            made[name] = Recipe(stored=header, step=step)
    problems += _pair(made, scales)
    if problems:
        raise CheckpointError("\n  ".join(problems))
    return made


def _pair(made: dict[str, Recipe], scales: Mapping[str, Header]) -> list[str]:
    """Give every fp8 tensor its scale; what does not pair up is told."""
    problems = [
        f"{recipe.stored} is fp8 without a scale"
        for name, recipe in made.items()
        if recipe.stored.dtype == FP8 and name not in scales
    ]
    for name, scale in scales.items():
        recipe = made.get(name)
        if recipe is None or recipe.stored.dtype != FP8:
            problems.append(f"{scale} scales no fp8 tensor")
        elif scale.shape != recipe.stored.shape[:2]:
            wanted = list(recipe.stored.shape[:2])
            problems.append(f"{scale} does not fit {recipe.stored}, wanted {wanted}")
        else:
            made[name] = Recipe(stored=recipe.stored, step=recipe.step, scale=scale)
    return problems


_OLDER_PARTS = ("text_model.", "vision_encoder.", "region_model.")

# Left behind by a reference that was saved while running, and scales of a quantised cache.
_RUNTIME_TENSOR = re.compile(r"\.kv_cache\.|\.kv_quantizer\.")

_SCALE = re.compile(r"text_model\.transformer\.h\.(\d+)\.moe_quant\.(up|down)_scale")


def _scaled_tensor(match: re.Match[str]) -> str:
    layer, side = match.groups()
    return f"model.text.blocks.{layer}.mlp.{'fc1' if side == 'up' else 'fc2'}.weight"


def layout_of(stored_name: str) -> Layout:
    """Which layout a tensor's name belongs to."""
    is_older = stored_name.removeprefix("_orig_mod.").startswith(_OLDER_PARTS)
    return Layout.OLDER if is_older else Layout.HUGGING_FACE


def _names(plain: str) -> list[tuple[str, Step]]:
    """Names in the model that a stored name stands for, each with what has to be done."""
    if layout_of(plain) is Layout.HUGGING_FACE:
        return [(f"model.{plain.removeprefix('model.')}", Step.AS_IS)]
    if match := _FUSED_TAU.fullmatch(plain):
        tau = f"model.text.blocks.{match[1]}.attn.tau"
        return [(f"{tau}.wq", Step.UPPER_HALF), (f"{tau}.wv", Step.LOWER_HALF)]
    if match := _FEATURES.fullmatch(plain):
        kind = {"coordinate": "coord", "size": "size"}[match[1]]
        return [(f"model.region.{kind}_features", Step.TRANSPOSED)]
    for pattern, name in _OLDER_NAMES:
        if match := pattern.fullmatch(plain):
            return [(f"model.{match.expand(name)}", Step.AS_IS)]
    return [(plain, Step.AS_IS)]


_FUSED_TAU = re.compile(r"text_model\.transformer\.h\.(\d+)\.tau_wqwv")
_FEATURES = re.compile(r"region_model\.(coordinate|size)_features\.weight")

_LAYER = r"text_model\.transformer\.h\.(\d+)"
_TOWER = r"vision_encoder\.encoder\.model\.visual"
_OLDER_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"text_model\.transformer\.embd\.wte\.weight", r"text.wte"),
        (r"text_model\.lm_head\.ln\.(\w+)", r"text.post_ln.\1"),
        (r"text_model\.lm_head\.linear\.(\w+)", r"text.lm_head.\1"),
        (rf"{_LAYER}\.ln\.(\w+)", r"text.blocks.\1.ln.\2"),
        (rf"{_LAYER}\.mixer\.Wqkv\.(\w+)", r"text.blocks.\1.attn.qkv.\2"),
        (rf"{_LAYER}\.mixer\.out_proj\.(\w+)", r"text.blocks.\1.attn.proj.\2"),
        (rf"{_LAYER}\.tau_(wq|wv|alpha)", r"text.blocks.\1.attn.tau.\2"),
        (rf"{_LAYER}\.mlp\.(fc1|fc2)\.(\w+)", r"text.blocks.\1.mlp.\2.\3"),
        (rf"{_LAYER}\.gate\.(\w+)", r"text.blocks.\1.mlp.router.\2"),
        (rf"{_LAYER}\.mlp\.experts\.weight", r"text.blocks.\1.mlp.fc1.weight"),
        (rf"{_LAYER}\.mlp\.output_experts\.weight", r"text.blocks.\1.mlp.fc2.weight"),
        (rf"{_TOWER}\.patch_embed\.linear\.(\w+)", r"vision.patch_emb.\1"),
        (rf"{_TOWER}\.pos_embed", r"vision.pos_emb"),
        (rf"{_TOWER}\.norm\.(\w+)", r"vision.post_ln.\1"),
        (rf"{_TOWER}\.blocks\.(\d+)\.norm([12])\.(\w+)", r"vision.blocks.\1.ln\2.\3"),
        (
            rf"{_TOWER}\.blocks\.(\d+)\.(attn|mlp)\.(qkv|proj|fc1|fc2)\.(\w+)",
            r"vision.blocks.\1.\2.\3.\4",
        ),
        (r"vision_encoder\.projection\.mlp\.(fc1|fc2)\.(\w+)", r"vision.proj_mlp.\1.\2"),
        (r"region_model\.coordinate_encoder\.(\w+)", r"region.coord_encoder.\1"),
        (r"region_model\.size_encoder\.(\w+)", r"region.size_encoder.\1"),
        (r"region_model\.ln\.(\w+)", r"region.ln.\1"),
        (r"region_model\.coordinate_(?:head|decoder)\.([\w.]+)", r"region.coord_decoder.\1"),
        (r"region_model\.size_(?:head|decoder)\.([\w.]+)", r"region.size_decoder.\1"),
    )
)
