"""The parts of a Moondream: sizes, ids, templates, and choices where sources disagree.

Names of fields are those of the published `config.json`; `published_config` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Family(StrEnum):
    """Dense Moondream 2, or Moondream 3 (preview and 3.1) with tau attention and experts."""

    MOONDREAM2 = "moondream2"
    MOONDREAM3 = "moondream3"


NUM_BINS = 1024  # per coordinate and per side of a box; fixed by the wire contract


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """The expert layers; `start_layer` is the first text layer that has experts."""

    num_experts: int = 64
    start_layer: int = 4
    experts_per_token: int = 8
    expert_inner_dim: int = 1024

    def __post_init__(self) -> None:
        _check_positive(self, "num_experts", "experts_per_token", "expert_inner_dim")
        if self.start_layer < 0:
            raise ValueError(f"text.moe.start_layer is {self.start_layer}, wanted 0 or more")
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"text.moe.experts_per_token is {self.experts_per_token}, more than the "
                f"{self.num_experts} experts of text.moe.num_experts"
            )


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text model.

    Attributes:
        prefix_attn: Length of the bidirectional prefix, BOS and image tokens; derived from the
            vision grid.
        tau_gelu: GELU on the tau features: "tanh" (default) or "none" (the exact erf form of older
            code).
        tau_position_dtype: Where the tau position term is computed: "float32" (then cast) or
            "model".
    """

    dim: int = 2048
    ff_dim: int = 8192
    n_layers: int = 24
    vocab_size: int = 51200
    max_context: int
    n_heads: int = 32
    n_kv_heads: int = 32
    prefix_attn: int
    group_size: int | None = None
    moe: MoeConfig | None
    rope_theta: float
    tau_attn: bool
    tau_gelu: str = "tanh"
    tau_position_dtype: str = "float32"

    def __post_init__(self) -> None:
        _check_positive(
            self, "dim", "ff_dim", "n_layers", "vocab_size", "max_context", "n_heads", "rope_theta"
        )
        _check_choice("text.tau_gelu", self.tau_gelu, ("tanh", "none"))
        _check_choice("text.tau_position_dtype", self.tau_position_dtype, ("float32", "model"))
        if self.dim % self.n_heads or self.head_dim % 4:
            raise ValueError(
                f"text.dim {self.dim} does not split into {self.n_heads} heads "
                "of a width divisible by 4"
            )
        if self.n_kv_heads != self.n_heads:
            raise ValueError(
                f"text.n_kv_heads is {self.n_kv_heads} but text.n_heads is {self.n_heads}; "
                "grouped keys and values are not part of either family"
            )
        if self.group_size is not None:
            raise ValueError(
                f"text.group_size is {self.group_size}: int4 checkpoints are not supported, "
                "use the bf16 weights"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def rotated_dim(self) -> int:
        """How many of the head's values are rotated; the others carry no position."""
        return self.head_dim // 2

    def is_expert_layer(self, index: int) -> bool:
        return self.moe is not None and index >= self.moe.start_layer


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower and its projection. Crops are `crop_size` pixels square.

    Attributes:
        crop_dtype: Where pixels are normalised: "model" (the model's dtype) or "bfloat16" (always,
            as older code).
    """

    enc_dim: int = 1152
    enc_patch_size: int = 14
    enc_n_layers: int = 27
    enc_ff_dim: int = 4304
    enc_n_heads: int = 16
    proj_out_dim: int
    crop_size: int = 378
    in_channels: int = 3
    max_crops: int = 12
    overlap_margin: int = 4
    proj_inner_dim: int = 8192
    crop_dtype: str = "model"

    def __post_init__(self) -> None:
        _check_positive(
            self, "enc_dim", "enc_patch_size", "enc_n_layers", "enc_ff_dim", "enc_n_heads",
            "crop_size", "max_crops", "proj_inner_dim",
        )  # fmt: skip
        _check_choice("vision.crop_dtype", self.crop_dtype, ("model", "bfloat16"))
        if self.in_channels != 3:
            raise ValueError(f"vision.in_channels is {self.in_channels}, wanted 3 (RGB)")
        if self.crop_size % self.enc_patch_size:
            raise ValueError(
                f"vision.crop_size {self.crop_size} is no multiple of "
                f"vision.enc_patch_size {self.enc_patch_size}"
            )
        if self.enc_dim % self.enc_n_heads:
            raise ValueError(
                f"vision.enc_dim {self.enc_dim} does not split into {self.enc_n_heads} heads"
            )
        if not 0 <= 2 * self.overlap_margin < self.grid_side:
            raise ValueError(
                f"vision.overlap_margin {self.overlap_margin} leaves no window "
                f"of the {self.grid_side} patches"
            )

    @property
    def grid_side(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_size // self.enc_patch_size

    @property
    def num_image_tokens(self) -> int:
        return self.grid_side**2

    @property
    def window_px(self) -> int:
        """Stride of the tiles: what a crop shows without its margins."""
        return (self.grid_side - 2 * self.overlap_margin) * self.enc_patch_size

    @property
    def both_margins_px(self) -> int:
        return 2 * self.overlap_margin * self.enc_patch_size


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """The heads that read and write coordinates and sizes.

    Attributes:
        inner_dim: Hidden width of the MLP decoders; None for linear ones.
        decoder_arch: "linear" (Moondream 3) or "mlp" (Moondream 2).
        use_ln: Whether the decoders normalise the hidden state with `region.ln` first.
        region_gelu: GELU of the MLP decoders: "tanh" (default) or "none" (exact erf).
        coord_divisor: A coordinate bin reads back as bin / coord_divisor: 1023 (default) or 1024.
        round_decoded_values: Whether a decoded value is rounded to the model dtype outside the
            model, too.
    """

    dim: int
    coord_feat_dim: int = 256
    coord_out_dim: int = NUM_BINS
    size_feat_dim: int = 512
    size_out_dim: int = 2 * NUM_BINS
    inner_dim: int | None
    decoder_arch: str
    use_ln: bool
    region_gelu: str = "tanh"
    coord_divisor: int = 1023
    round_decoded_values: bool = False

    def __post_init__(self) -> None:
        _check_choice("region.decoder_arch", self.decoder_arch, ("linear", "mlp"))
        _check_choice("region.region_gelu", self.region_gelu, ("tanh", "none"))
        _check_choice("region.coord_divisor", self.coord_divisor, (1023, 1024))
        for name in ("coord_feat_dim", "size_feat_dim"):
            if getattr(self, name) <= 0 or getattr(self, name) % 2:
                raise ValueError(
                    f"region.{name} is {getattr(self, name)}, wanted an even number above 0"
                )
        if (self.coord_out_dim, self.size_out_dim) != (NUM_BINS, 2 * NUM_BINS):
            raise ValueError(
                f"region.coord_out_dim and region.size_out_dim are "
                f"{self.coord_out_dim} and {self.size_out_dim}, "
                f"wanted {NUM_BINS} and {2 * NUM_BINS}"
            )
        if (self.decoder_arch == "mlp") != (self.inner_dim is not None):
            raise ValueError(
                f"region.inner_dim is {self.inner_dim} with region.decoder_arch "
                f"{self.decoder_arch!r}; "
                'it belongs to "mlp" decoders only'
            )


@dataclass(frozen=True, kw_only=True)
class CaptionTemplates:
    """Whole prompts after the image, one per caption length."""

    short: tuple[int, ...]
    normal: tuple[int, ...]
    long: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class QueryTemplate:
    """`prefix`, references, question, `answer_prefix` or `reasoning_prefix`; what is never drawn.

    `post_reasoning_prefix` is kept as read; `TokenizerConfig.post_reasoning_answer_tokens` says
    what is fed.
    """

    prefix: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    reasoning_prefix: tuple[int, ...]
    post_reasoning_prefix: tuple[int, ...] = ()
    reasoning_suppressed_token_ids: tuple[int, ...] = ()
    answer_suppressed_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ObjectTemplate:
    """`prefix`, spatial references, object name, `suffix`."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Templates:
    """Prompt token ids of every skill; `segment` is None where the family has none."""

    caption: CaptionTemplates
    query: QueryTemplate
    detect: ObjectTemplate
    point: ObjectTemplate
    segment: ObjectTemplate | None


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Special ids and prompt templates.

    Attributes:
        post_reasoning_answer_tokens: How many answer ids enter the sequence between reasoning and
            answer; the drawn one counts, a second is forced.
        mask_first_token: Whether a skill's logit mask holds for the first generated token, too;
            False is refused, because an answer that begins outside its grammar cannot be trained.
    """

    bos_id: int = 0
    eos_id: int = 0
    answer_id: int = 3
    thinking_id: int = 4
    coord_id: int = 5
    size_id: int = 6
    start_ground_points_id: int = 7
    end_ground_id: int = 9
    templates: Templates
    post_reasoning_answer_tokens: int = 1
    mask_first_token: bool = True

    def __post_init__(self) -> None:
        _check_choice(
            "tokenizer.post_reasoning_answer_tokens", self.post_reasoning_answer_tokens, (1, 2)
        )
        _check_choice("tokenizer.mask_first_token", self.mask_first_token, (True,))


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        kind, article = (float, "a") if name == "rope_theta" else (int, "an")
        if not isinstance(value, kind | int) or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f"{type(config).__name__}.{name} is {value!r}, "
                f"wanted {article} {kind.__name__} above 0"
            )


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, wanted one of {list(choices)}")
