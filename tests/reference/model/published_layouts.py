"""Writes a model under the names of the older layout, from the table of the format alone."""

from __future__ import annotations

import torch
from torch import Tensor

FP8_LARGEST = 448.0

TEXT = {
    "model.text.wte": "text_model.transformer.embd.wte.weight",
    "model.text.post_ln": "text_model.lm_head.ln",
    "model.text.lm_head": "text_model.lm_head.linear",
}
BLOCK = {
    "ln": "ln",
    "attn.qkv": "mixer.Wqkv",
    "attn.proj": "mixer.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.router": "gate",
}
VISUAL = "vision_encoder.encoder.model.visual"
VISION = {"patch_emb": "patch_embed.linear", "post_ln": "norm"}
VISION_BLOCK = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
REGION = {
    "coord_encoder": "coordinate_encoder",
    "size_encoder": "size_encoder",
    "ln": "ln",
    "coord_decoder.fc1": "coordinate_decoder.fc1",
    "coord_decoder.fc2": "coordinate_decoder.fc2",
    "size_decoder.fc1": "size_decoder.fc1",
    "size_decoder.fc2": "size_decoder.fc2",
    "coord_decoder": "coordinate_head",
    "size_decoder": "size_head",
}


def older_names(
    state: dict[str, Tensor], *, fused_tau: bool = True, fp8: bool = False
) -> dict[str, Tensor]:
    """The tensors of `state_dict()` as the older layout names and shapes them."""
    written: dict[str, Tensor] = {}
    for name, tensor in state.items():
        written |= _older(name.removeprefix("model."), tensor, state, fused_tau, fp8)
    return {name: tensor.contiguous() for name, tensor in written.items()}


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """fp8 [E, out, in] and the float32 scale [E, out] of each output row."""
    scale = weight.float().abs().amax(-1) / FP8_LARGEST
    return (weight.float() / scale[..., None]).to(torch.float8_e4m3fn), scale


def _older(
    name: str, tensor: Tensor, state: dict[str, Tensor], fused_tau: bool, fp8: bool
) -> dict[str, Tensor]:
    if name.startswith("text.blocks."):
        _, _, layer, rest = name.split(".", 3)
        return _older_block(f"text_model.transformer.h.{layer}", layer, rest, tensor, state,
                            fused_tau, fp8)  # fmt: skip
    if name in ("region.coord_features", "region.size_features"):
        word = "coordinate" if "coord" in name else "size"
        return {f"region_model.{word}_features.weight": tensor.T}
    if name.startswith("region."):
        part, _, leaf = name.removeprefix("region.").rpartition(".")
        return {f"region_model.{REGION[part]}.{leaf}": tensor}
    if name.startswith("vision.blocks."):
        _, _, layer, rest = name.split(".", 3)
        part, _, leaf = rest.rpartition(".")
        return {f"{VISUAL}.blocks.{layer}.{VISION_BLOCK[part]}.{leaf}": tensor}
    if name.startswith("vision.proj_mlp."):
        return {f"vision_encoder.projection.mlp.{name.removeprefix('vision.proj_mlp.')}": tensor}
    if name == "vision.pos_emb":
        return {f"{VISUAL}.pos_embed": tensor}
    if name.startswith("vision."):
        part, _, leaf = name.removeprefix("vision.").rpartition(".")
        return {f"{VISUAL}.{VISION[part]}.{leaf}": tensor}
    if name == "text.wte":
        return {TEXT["model.text.wte"]: tensor}
    part, _, leaf = name.rpartition(".")
    return {f"{TEXT['model.' + part]}.{leaf}": tensor}


def _older_block(
    block: str,
    layer: str,
    rest: str,
    tensor: Tensor,
    state: dict[str, Tensor],
    fused_tau: bool,
    fp8: bool,
) -> dict[str, Tensor]:
    if rest in ("attn.tau.wq", "attn.tau.wv"):
        if not fused_tau:
            return {f"{block}.tau_{rest[-2:]}": tensor}
        tau = f"model.text.blocks.{layer}.attn.tau"
        return {f"{block}.tau_wqwv": torch.cat([state[f"{tau}.wq"], state[f"{tau}.wv"]])}
    if rest == "attn.tau.alpha":
        return {f"{block}.tau_alpha": tensor}
    if tensor.ndim == 3:
        name, side = ("experts", "up") if "fc1" in rest else ("output_experts", "down")
        if not fp8:
            return {f"{block}.mlp.{name}.weight": tensor}
        weight, scale = quantised(tensor)
        return {f"{block}.mlp.{name}.weight": weight, f"{block}.moe_quant.{side}_scale": scale}
    part, _, leaf = rest.rpartition(".")
    return {f"{block}.{BLOCK[part]}.{leaf}": tensor}
