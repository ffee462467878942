"""A whole Moondream's config, as published files have it.

`config.json` is `{"model_type": ..., "config": {"text": ..., "vision": ..., "region": ...,
"tokenizer": ...}}`. Published files leave most of it out, so the family (Moondream 2 or 3) supplies
the rest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from trainer.model.config import (
    CaptionTemplates,
    Family,
    MoeConfig,
    ObjectTemplate,
    QueryTemplate,
    RegionConfig,
    Templates,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
)

FAMILY_OF_MODEL_TYPE = {
    "moondream1": Family.MOONDREAM2,
    "moondream2": Family.MOONDREAM2,
    "moondream3": Family.MOONDREAM3,
}
MODEL_TYPE_OF_FAMILY = {Family.MOONDREAM2: "moondream1", Family.MOONDREAM3: "moondream3"}


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
