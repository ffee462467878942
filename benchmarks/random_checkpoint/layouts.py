"""Which tensors a published file holds: their names, dtypes and shapes, and how each is made.

`trainer.model.layouts` reads what is written here; the two do not share their tables, so that each
checks the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.random_checkpoint.streamed_file import StoredTensor
from benchmarks.random_checkpoint.values import EXPERTS, RandomValues
from trainer.model.layouts import FP8


def hf_tensors(values: RandomValues, dtype: torch.dtype) -> list[StoredTensor]:
    """The Hugging Face layout, which is that of the model."""
    return [_stored(values, name, [name], dtype) for name in values.shapes]


def text_model_tensors(
    values: RandomValues, dtype: torch.dtype, *, has_fp8: bool
) -> list[StoredTensor]:
    """The layout of `text_model.*`: tau fused, features transposed, experts in fp8 or `dtype`."""
    return [
        tensor
        for name in values.shapes
        for tensor in _text_model(values, name, dtype, has_fp8=has_fp8)
    ]


def _text_model(
    values: RandomValues, name: str, dtype: torch.dtype, *, has_fp8: bool
) -> Iterator[StoredTensor]:
    """What stands for one tensor of the model; wq brings wv along, fp8 its scale."""
    if name.endswith(".tau.wv"):
        return
    written = text_model_name(name, is_experts=values.is_experts(name))
    if name.endswith(".tau.wq"):
        yield _stored(values, written, [name, f"{name.removesuffix('wq')}wv"], dtype)
    elif has_fp8 and values.is_experts(name):
        shape = values.shapes[name]
        yield StoredTensor(name=written, dtype=FP8, shape=shape, make=partial(values.fp8, name))
        yield StoredTensor(
            name=_scale_name(name),
            dtype=torch.float32,
            shape=shape[:2],
            make=partial(values.row_scales, name),
        )
    else:
        yield _stored(values, written, [name], dtype, is_transposed=name.endswith("_features"))


def _stored(
    values: RandomValues,
    written: str,
    names: list[str],
    dtype: torch.dtype,
    *,
    is_transposed: bool = False,
) -> StoredTensor:
    """One tensor of the model, or several below each other."""
    num_rows = sum(values.shapes[name][0] for name in names)
    shape = (num_rows, *values.shapes[names[0]][1:])

    def make() -> Tensor:
        parts = [values.tensor(name).to(dtype) for name in names]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.T if is_transposed else whole

    shape = shape[::-1] if is_transposed else shape
    return StoredTensor(name=written, dtype=dtype, shape=shape, make=make)


def text_model_name(name: str, *, is_experts: bool) -> str:
    """The `text_model.*` name of a tensor of the model; fused tau for wq."""
    table = _EXPERT_NAMES if is_experts else _NAMES
    plain = name.removeprefix("model.")
    for pattern, written in table:
        if match := pattern.fullmatch(plain):
            return match.expand(written)
    raise ValueError(f"{name} has no name in the text_model layout")


def _scale_name(name: str) -> str:
    match = EXPERTS.fullmatch(name)
    assert match is not None, name
    side = {"fc1": "up", "fc2": "down"}[match[2]]
    return f"text_model.transformer.h.{match[1]}.moe_quant.{side}_scale"


_BLOCK = r"text\.blocks\.(\d+)"
_H = r"text_model.transformer.h.\1"
_VISUAL = r"vision_encoder.encoder.model.visual"


def _compiled(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), written) for pattern, written in pairs)


_EXPERT_NAMES = _compiled(
    (rf"{_BLOCK}\.mlp\.fc1\.weight", rf"{_H}.mlp.experts.weight"),
    (rf"{_BLOCK}\.mlp\.fc2\.weight", rf"{_H}.mlp.output_experts.weight"),
)
_NAMES = _compiled(
    (r"text\.wte", r"text_model.transformer.embd.wte.weight"),
    (r"text\.post_ln\.(\w+)", r"text_model.lm_head.ln.\1"),
    (r"text\.lm_head\.(\w+)", r"text_model.lm_head.linear.\1"),
    (rf"{_BLOCK}\.ln\.(\w+)", rf"{_H}.ln.\2"),
    (rf"{_BLOCK}\.attn\.qkv\.(\w+)", rf"{_H}.mixer.Wqkv.\2"),
    (rf"{_BLOCK}\.attn\.proj\.(\w+)", rf"{_H}.mixer.out_proj.\2"),
    (rf"{_BLOCK}\.attn\.tau\.wq", rf"{_H}.tau_wqwv"),
    (rf"{_BLOCK}\.attn\.tau\.alpha", rf"{_H}.tau_alpha"),
    (rf"{_BLOCK}\.mlp\.router\.(\w+)", rf"{_H}.gate.\2"),
    (rf"{_BLOCK}\.mlp\.(fc1|fc2)\.(\w+)", rf"{_H}.mlp.\2.\3"),
    (r"vision\.patch_emb\.(\w+)", rf"{_VISUAL}.patch_embed.linear.\1"),
    (r"vision\.pos_emb", rf"{_VISUAL}.pos_embed"),
    (r"vision\.post_ln\.(\w+)", rf"{_VISUAL}.norm.\1"),
    (r"vision\.blocks\.(\d+)\.ln([12])\.(\w+)", rf"{_VISUAL}.blocks.\1.norm\2.\3"),
    (r"vision\.blocks\.(\d+)\.((?:attn|mlp)\.\w+\.\w+)", rf"{_VISUAL}.blocks.\1.\2"),
    (r"vision\.proj_mlp\.([\w.]+)", r"vision_encoder.projection.mlp.\1"),
    (r"region\.coord_features", r"region_model.coordinate_features.weight"),
    (r"region\.size_features", r"region_model.size_features.weight"),
    (r"region\.coord_encoder\.(\w+)", r"region_model.coordinate_encoder.\1"),
    (r"region\.size_encoder\.(\w+)", r"region_model.size_encoder.\1"),
    (r"region\.ln\.(\w+)", r"region_model.ln.\1"),
    (r"region\.coord_decoder\.(fc[12]\.\w+)", r"region_model.coordinate_decoder.\1"),
    (r"region\.size_decoder\.(fc[12]\.\w+)", r"region_model.size_decoder.\1"),
    (r"region\.coord_decoder\.(\w+)", r"region_model.coordinate_head.\1"),
    (r"region\.size_decoder\.(\w+)", r"region_model.size_head.\1"),
)
