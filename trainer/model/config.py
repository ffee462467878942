"""What a Moondream looks like: sizes, ids, templates, and choices where sources disagree.

A config is read from the published `config.json` form, `{"model_type": ..., "config": {"text": ...,
"vision": ..., "region": ..., "tokenizer": ...}}`. Published files leave most of it out, so the
family (Moondream 2 or 3) supplies the rest. Names of fields are those of the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig


class Family(StrEnum):
    """Dense Moondream 2, or Moondream 3 (preview and 3.1) with tau attention and experts."""

    MOONDREAM2 = "moondream2"
    MOONDREAM3 = "moondream3"


FAMILY_OF_MODEL_TYPE = {
    "moondream1": Family.MOONDREAM2,
    "moondream2": Family.MOONDREAM2,
    "moondream3": Family.MOONDREAM3,
}
MODEL_TYPE_OF_FAMILY = {Family.MOONDREAM2: "moondream1", Family.MOONDREAM3: "moondream3"}
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


class MoondreamConfig(PretrainedConfig):
    """The whole model. Build it with `from_published` or `from_file`.

    Attributes:
        family: Moondream 2 or 3.
        text, vision, region, tokenizer: The parts, frozen.
    """

    model_type = "moondream"

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        family: Family | str = Family.MOONDREAM3,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("model_type", None)
        super().__init__(**kwargs)
        self.family = Family(family)
        parts = dict(config or {})
        parts.pop("skills", None)  # published Moondream 3: a list of names that decides nothing
        known = {"text", "vision", "region", "tokenizer"}
        if unknown := sorted(set(parts) - known):
            raise ValueError(f"unknown keys in config: {unknown}; known are {sorted(known)}")
        text_given = dict(parts.get("text") or {})
        dim = text_given.get("dim", 2048)
        self.vision = _vision_config(dict(parts.get("vision") or {}), dim)
        self.text = _text_config(text_given, self.family, self.vision)
        self.region = _region_config(dict(parts.get("region") or {}), self.family, dim)
        self.tokenizer = _tokenizer_config(
            dict(parts.get("tokenizer") or {}), self.family, self.text.vocab_size
        )

    @classmethod
    def from_published(
        cls, published: Mapping[str, Any], *, family: Family | None = None
    ) -> MoondreamConfig:
        """Read the content of a `config.json`.

        Args:
            published: The whole file: `{"model_type": ..., "config": {...}}`; both keys may be
                missing.
            family: Taken when the file has no model_type (Moondream 3.1), refused when the file
                contradicts it.

        Raises:
            ValueError: An unknown model_type, no family at all, an unknown key, or values that
                contradict.
        """
        model_type = published.get("model_type")
        if model_type is not None and model_type not in FAMILY_OF_MODEL_TYPE:
            raise ValueError(
                f"config model_type is {model_type!r}, wanted one of {sorted(FAMILY_OF_MODEL_TYPE)}"
            )
        stated = FAMILY_OF_MODEL_TYPE[model_type] if model_type is not None else None
        if stated is not None and family is not None and stated != family:
            raise ValueError(
                f"config model_type {model_type!r} says {stated.value}, "
                f"the weights say {family.value}"
            )
        chosen = stated or family
        if chosen is None:
            raise ValueError("config has no model_type; give the family")
        return cls(published.get("config"), family=chosen)

    @classmethod
    def from_file(cls, path: str | Path, *, family: Family | None = None) -> MoondreamConfig:
        """Read a `config.json`, see `from_published`."""
        return cls.from_published(json.loads(Path(path).read_text()), family=family)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return_unused = kwargs.pop("return_unused_kwargs", False)
        config = cls.from_published(config_dict)
        return (config, kwargs) if return_unused else config

    def to_published(self) -> dict[str, Any]:
        """The content of a `config.json` with every field spelled out."""
        return {
            "model_type": MODEL_TYPE_OF_FAMILY[self.family],
            "config": {
                name: _plain(getattr(self, name))
                for name in ("text", "vision", "region", "tokenizer")
            },
        }

    def to_dict(self) -> dict[str, Any]:
        return self.to_published()

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_published()


def _vision_config(given: dict[str, Any], dim: int) -> VisionConfig:
    given = {"proj_out_dim": dim, **given}
    _check_known(given, VisionConfig, "vision")
    vision = VisionConfig(**given)
    if vision.proj_out_dim != dim:
        raise ValueError(f"vision.proj_out_dim is {vision.proj_out_dim}, but text.dim is {dim}")
    return vision


def _text_config(given: dict[str, Any], family: Family, vision: VisionConfig) -> TextConfig:
    is_third = family is Family.MOONDREAM3
    prefix_len = 1 + vision.num_image_tokens
    if "n_heads" in given:
        given.setdefault("n_kv_heads", given["n_heads"])
    defaults: dict[str, Any] = {
        "max_context": 32768 if is_third else 2048,
        "prefix_attn": prefix_len,
        "moe": {} if is_third else None,
        "rope_theta": 1_500_000.0 if is_third else 10_000.0,
        "tau_attn": is_third,
    }
    values = {**defaults, **given}
    if values["moe"] is not None:
        _check_known(values["moe"], MoeConfig, "text.moe")
        values["moe"] = MoeConfig(**values["moe"])
    _check_known(values, TextConfig, "text")
    text = TextConfig(**values)
    if text.prefix_attn != prefix_len:
        raise ValueError(
            f"text.prefix_attn is {text.prefix_attn}, but BOS and the image tokens "
            f"of the vision grid are {prefix_len}"
        )
    if text.tau_attn != is_third or (text.moe is not None and not is_third):
        raise ValueError(
            f"text.tau_attn {text.tau_attn} and text.moe {text.moe} do not belong to {family.value}"
        )
    return text


def _region_config(given: dict[str, Any], family: Family, dim: int) -> RegionConfig:
    is_third = family is Family.MOONDREAM3
    defaults: dict[str, Any] = {
        "dim": dim,
        "inner_dim": None if is_third else 8192,
        "decoder_arch": "linear" if is_third else "mlp",
        "use_ln": is_third,
    }
    if given.get("decoder_arch", defaults["decoder_arch"]) == "linear":
        given["inner_dim"] = None  # published Moondream 3 configs carry a width that nothing uses
    values = {**defaults, **given}
    _check_known(values, RegionConfig, "region")
    region = RegionConfig(**values)
    if region.dim != dim:
        raise ValueError(f"region.dim is {region.dim}, but text.dim is {dim}")
    return region


def _default_templates(family: Family) -> dict[str, Any]:
    is_third = family is Family.MOONDREAM3
    query: dict[str, Any] = {
        "prefix": (1, 15381, 2),
        "answer_prefix": (3,) if is_third else (3, 3),
        "reasoning_prefix": (4,) if is_third else (3, 4),
        "post_reasoning_prefix": () if is_third else (3,),
    }
    if not is_third:
        query |= {"reasoning_suppressed_token_ids": (0, 6), "answer_suppressed_token_ids": (3,)}
    return {
        "caption": {
            "short": (1, 32708, 2, 12492, 3),
            "normal": (1, 32708, 2, 6382, 3),
            "long": (1, 32708, 2, 4059, 3),
        },
        "query": query,
        "detect": {"prefix": (1, 7235, 476, 2), "suffix": (3,)},
        "point": {"prefix": (1, 2581, 2), "suffix": (3,)},
        "segment": {"prefix": (1, 17374, 2), "suffix": (3,)} if is_third else None,
    }


def _tokenizer_config(given: dict[str, Any], family: Family, vocab_size: int) -> TokenizerConfig:
    given_templates = given.pop("templates", None) or {}
    templates = {**_default_templates(family), **given_templates}
    _check_known(templates, Templates, "tokenizer.templates")
    kinds = {
        "caption": CaptionTemplates,
        "query": QueryTemplate,
        "detect": ObjectTemplate,
        "point": ObjectTemplate,
        "segment": ObjectTemplate,
    }
    built: dict[str, Any] = {}
    for name, kind in kinds.items():
        part = templates[name]
        if part is not None:
            _check_known(part, kind, f"tokenizer.templates.{name}")
            ids = {key: tuple(int(token) for token in value) for key, value in part.items()}
            for key, tokens in ids.items():
                if any(not 0 <= token < vocab_size for token in tokens):
                    raise ValueError(
                        f"tokenizer.templates.{name}.{key} is {list(tokens)}: "
                        f"ids lie outside the vocabulary of {vocab_size}"
                    )
            part = kind(**ids)
        built[name] = part
    _check_known(given, TokenizerConfig, "tokenizer")
    return TokenizerConfig(templates=Templates(**built), **given)


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as dicts and lists, for JSON."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return list(value) if isinstance(value, tuple) else value


def _check_known(given: Mapping[str, Any], kind: type, where: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(given) - set(fields)):
        raise ValueError(f"unknown keys in {where}: {unknown}; known are {sorted(fields)}")
    required = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name != "templates"
    }
    if missing := sorted(required - set(given)):
        raise ValueError(f"missing keys in {where}: {missing}")


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
