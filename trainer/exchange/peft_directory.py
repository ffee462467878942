"""A PEFT directory that applies to our base class, experts included.

Dense linears are LoRA layers by name; expert matrices [E, out, in] are target parameters, whose
factors PEFT stores flat, expert by expert in A and expert last in B:

    lora_A [E rho, in]   = A[E, rho, in]
    lora_B [out, rho E]  = B[E, out, rho] permuted to [out, rho, E]

with alpha equal to the rank everywhere, so that the scale is 1. Ranks differ between dense layers
(r) and experts (rho = r / K): `r` is that of the parameters, `rank_pattern` that of the modules.
Source: peft 0.21, tuners/lora (read for its behaviour).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.adapters.lora import Adapter, layer_name
from trainer.exchange.errors import ExchangeError
from trainer.exchange.tensors import checked_adapter
from trainer.model.config import TextConfig

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_LINEARS = {"up": "fc1", "down": "fc2"}
_KEY_PREFIX = "base_model.model."
T = TypeVar("T")

# What says nothing about the function. Whatever else a config says has to be empty: DoRA, biases,
# other modules, inputs of another order: an adapter here cannot hold them.
_HARMLESS = frozenset(
    {
        "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
        "task_type", "inference_mode", "init_lora_weights", "lora_dropout", "r", "lora_alpha",
        "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "target_parameters",
        "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config",
        "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
        "qalora_group_size", "ensure_weight_tying",
    }
)  # fmt: skip
_MEANS_NOTHING = (None, False, "none", [], {}, 0)


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What of an `adapter_config.json` decides what its tensors mean."""

    base_model: str | None
    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    def rank(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        rank = self.rank(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (rank**0.5 if self.use_rslora else rank)


def write_peft(directory: Path, adapter: Adapter, config: TextConfig, *, base_model: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, float32, into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for index in range(config.n_layers):
        layer = adapter.layer(index)
        for side, linear in _LINEARS.items():
            a, b = getattr(layer, f"{side}_a").detach(), getattr(layer, f"{side}_b").detach()
            if config.is_expert_layer(index):
                a, b = a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)
            key = f"{_KEY_PREFIX}{_module(index, linear)}"
            tensors[f"{key}.lora_A.weight"] = a.float().cpu().contiguous()
            tensors[f"{key}.lora_B.weight"] = b.float().cpu().contiguous()
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(_peft_config(config, adapter.rank, base_model=base_model), indent=2)
    (directory / CONFIG_FILE).write_text(text + "\n")


def read_peft(directory: Path, config: TextConfig) -> Adapter:
    """Read a PEFT directory that was made for our base class; its scale is folded into B.

    Raises:
        ExchangeError: It uses something that an adapter here cannot hold, or does not fit the
            model.
    """
    said = read_peft_config(directory)
    path = directory / WEIGHTS_FILE
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExchangeError(f"{path} cannot be read ({error}); fetch it again.") from error
    return _adapter(stored, said, config)


def read_peft_config(directory: Path) -> PeftConfig:
    """Read `adapter_config.json`.

    Raises:
        ExchangeError: It is damaged, or says something that an adapter here cannot hold.
    """
    path = directory / CONFIG_FILE
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ExchangeError(f"{path} cannot be read ({error}).") from error
    if not isinstance(said, dict) or said.get("peft_type") != "LORA":
        raise ExchangeError(f"{path} is no config of a LoRA adapter.")
    odd = {k: v for k, v in said.items() if k not in _HARMLESS and v not in _MEANS_NOTHING}
    if odd:
        raise ExchangeError(f"{path} says {odd}; only plain LoRA on the MLPs can be imported.")
    base_model = said.get("base_model_name_or_path")
    return PeftConfig(
        base_model=base_model if isinstance(base_model, str) else None,
        r=_positive(said, "r", 8, path),
        alpha=_positive(said, "lora_alpha", 8, path, of=float),
        rank_pattern=_pattern(said, "rank_pattern", path),
        alpha_pattern=_pattern(said, "alpha_pattern", path, of=float),
        use_rslora=bool(said.get("use_rslora")),
    )


def _adapter(stored: Mapping[str, Tensor], said: PeftConfig, config: TextConfig) -> Adapter:
    left = dict(stored)
    tensors: dict[str, Tensor] = {}
    dense_rank = expert_rank = None
    for index in range(config.n_layers):
        name = layer_name(config, index)
        for side, linear in _LINEARS.items():
            module = _module(index, linear)
            a = left.pop(f"{_KEY_PREFIX}{module}.lora_A.weight", None)
            b = left.pop(f"{_KEY_PREFIX}{module}.lora_B.weight", None)
            if a is None or b is None:
                continue  # named as missing below
            rank = said.rank(module)
            if config.is_expert_layer(index):
                assert config.moe is not None, "an expert layer has experts"
                num_experts, expert_rank = config.moe.num_experts, rank
                a, b = _by_expert(a, b, num_experts, rank, module)
            else:
                dense_rank = rank
            tensors[f"{name}.{side}_a"] = a
            tensors[f"{name}.{side}_b"] = b.float() * said.scale(module)
    tensors.update(left)  # named as unexpected below
    if dense_rank is None:
        raise ExchangeError(
            f"{WEIGHTS_FILE} adapts no dense MLP of this model; its names begin with"
            f" {next(iter(stored), 'nothing')}, wanted {_KEY_PREFIX}{_module(0, 'fc1')}."
        )
    wanted = dense_rank // config.moe.experts_per_token if config.moe else None
    if expert_rank is not None and expert_rank != wanted:
        raise ExchangeError(
            f"the experts have rank {expert_rank} and the dense layers {dense_rank}; wanted for"
            f" the experts is {wanted}, so that every token sees the same rank."
        )
    return checked_adapter(tensors, config, rank=dense_rank)


def _by_expert(
    a: Tensor, b: Tensor, num_experts: int, rank: int, module: str
) -> tuple[Tensor, Tensor]:
    if a.shape[:1] != (num_experts * rank,) or b.shape[1:] != (num_experts * rank,):
        raise ExchangeError(
            f"{module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}; wanted"
            f" {num_experts} experts of rank {rank}, that is [{num_experts * rank}, in] and"
            f" [out, {num_experts * rank}]."
        )
    return a.unflatten(0, (num_experts, rank)), b.unflatten(1, (rank, num_experts)).permute(2, 0, 1)


def _positive(said: Mapping[str, Any], key: str, default: Any, path: Path, of: type = int) -> Any:
    return _number(said.get(key, default), key, path, of)


def _pattern(said: Mapping[str, Any], key: str, path: Path, of: type = int) -> dict[str, Any]:
    """Patterns of names with their numbers.

    Raises:
        ExchangeError: It is something else.
    """
    given = said.get(key) or {}
    if not isinstance(given, dict):
        raise ExchangeError(f"{path}: {key} is {given!r}, wanted names with numbers")
    for pattern, value in given.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ExchangeError(f"{path}: {key} holds {pattern!r}, no pattern: {error}") from error
        _number(value, f"{key}[{pattern!r}]", path, of)
    return given


def _number(value: Any, name: str, path: Path, of: type) -> Any:
    is_number = type(value) in ((int,) if of is int else (int, float))
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ExchangeError(f"{path}: {name} is {value!r}, wanted a number above 0")
    return value


def _by_pattern(patterns: Mapping[str, T], module: str, default: T) -> T:
    """What PEFT would look up for a module: the first pattern that its name ends with."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _module(index: int, linear: str) -> str:
    return f"model.text.blocks.{index}.mlp.{linear}"


def _peft_config(config: TextConfig, rank: int, *, base_model: str) -> dict[str, Any]:
    dense = [i for i in range(config.n_layers) if not config.is_expert_layer(i)]
    experts = [i for i in range(config.n_layers) if config.is_expert_layer(i)]
    modules = rf"model\.text\.blocks\.({'|'.join(map(str, dense))})\.mlp\.fc[12]"
    parameters = [f"{_module(i, linear)}.weight" for i in experts for linear in _LINEARS.values()]
    r = rank // config.moe.experts_per_token if config.moe and experts else rank
    pattern = {modules: rank} if r != rank else {}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": r,
        "lora_alpha": r,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": modules,
        "target_parameters": parameters or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        "task_type": None,
    }
