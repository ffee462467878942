"""Builders of micro models and of valid things with one changed fact, for the tests of the trainer.

A micro model is a whole Moondream of 32 dimensions whose weights are random and uneven enough that
every part changes the answer: it knows nothing, and computes everything. Import as `tests.micro`;
the root of the repository must be on the path, as for the packages themselves.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contract.engine import AdapterRef, FileRef, ModelInfo, TrainStep
from contract.groups import Group, RLGroup, TrainOptions
from contract.skills import (
    ChatRequest,
    ChatTurn,
    DetectRequest,
    Pixels,
    PointRequest,
    QueryRequest,
    ReturnedRollout,
    Rollout,
    Settings,
    Skill,
    TunableRequest,
)
from server.resources import find
from tiny.tokenizer import VOCAB_SIZE, tokenizer_config
from trainer.adapters.lora import Adapter, adapter_bytes_per_rank, adapter_shapes
from trainer.batching import Row
from trainer.decoder import DecodeRequest
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.tokenizer import Tokenizer
from trainer.prefill import prefill
from trainer.rollouts import make_rollout
from trainer.sampling import sample
from trainer.sequence import Trace
from trainer.skills import SKILLS
from trainer.skills.base import Language

TINY = find("tiny/checkpoint")
RANK = 8
NUM_IMAGE_TOKENS = 16

LIKELY_TOKENS = {0: 3.0, 3: 4.0, 5: 4.5, 6: 3.5, 7: 3.5, 9: 3.5}
"""Biases of end, answer mark, coordinates, sizes and grounding marks: all occur in texts."""

QUERY = QueryRequest(question="how many circles are there?")
QUERY_WITH_IMAGE = QueryRequest(question="what is red?", image=0)
REASONING = QueryRequest(question="what is left of it?", image=1, reasoning=True)
POINT = PointRequest(object="red circle", image=0, spatial_refs=((0.25, 0.5),))
DETECT = DetectRequest(object="blue square", image=1)
CHAT = ChatRequest(
    turns=(
        ChatTurn(text="what is red?", images=(1,), answer="the circle"),
        ChatTurn(text="and here?", images=(0, 1)),
    ),
    system="Be brief.",
)
REQUESTS: dict[str, TunableRequest] = {
    "query": QUERY,
    "query-image": QUERY_WITH_IMAGE,
    "query-reasoning": REASONING,
    "point": POINT,
    "detect": DETECT,
}


def micro_config(family: str = "moondream3", **text: Any) -> MoondreamConfig:
    """Three layers (in Moondream 3 the last two with 4 experts), 4 x 4 patches."""
    is_third = family == "moondream3"
    moe = {"num_experts": 4, "start_layer": 1, "experts_per_token": 2, "expert_inner_dim": 12}
    return MoondreamConfig.from_published(
        {
            "model_type": "moondream3" if is_third else "moondream1",
            "config": {
                "text": {
                    "dim": 32, "ff_dim": 48, "n_layers": 3, "n_heads": 2,
                    "vocab_size": VOCAB_SIZE, "max_context": 128,
                    "moe": moe if is_third else None, **text,
                },
                "vision": {
                    "enc_dim": 16, "enc_n_layers": 1, "enc_ff_dim": 24, "enc_n_heads": 2,
                    "enc_patch_size": 7, "crop_size": 28, "max_crops": 4, "overlap_margin": 1,
                    "proj_inner_dim": 24,
                },
                "region": {
                    "coord_feat_dim": 16, "size_feat_dim": 16,
                    **({} if is_third else {"inner_dim": 20}),
                },
                "tokenizer": tokenizer_config(family),
            },
        }
    )  # fmt: skip


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer of the tiny model; read once per session."""
    return Tokenizer.from_directory(TINY)


@cache
def micro_model(
    family: str = "moondream3", dtype: torch.dtype = torch.float64, max_context: int = 128
) -> Moondream:
    """A frozen micro model; shared by all tests, so none may change it."""
    model = Moondream.from_scratch(micro_config(family, max_context=max_context), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_head = "lm_head" in name or "decoder" in name
            if "coord_features" not in name and "size_features" not in name:
                parameter += (0.15 if is_head else 0.1) * noise
        for token, bias in LIKELY_TOKENS.items():
            model.text.lm_head.bias[token] = bias
    return model.to(dtype).eval().requires_grad_(False)


def language_of(model: Moondream, words: Tokenizer | None = None) -> Language:
    return Language(
        tokenizer=words or tokenizer(),
        ids=model.config.tokenizer,
        vocab_size=model.config.text.vocab_size,
        coord_divisor=model.config.region.coord_divisor,
    )


def micro_language(family: str = "moondream3") -> Language:
    return language_of(micro_model(family))


@cache
def pictures() -> tuple[Pixels, ...]:
    """Two pictures of noise; one shows a single tile, the other two."""
    made: list[Pixels] = []
    for index, (height, width) in enumerate(((28, 28), (30, 60))):
        data = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        made.append(Pixels(height=height, width=width, digest=digest, data=data))
    return tuple(made)


@cache
def features_of(model: Moondream) -> dict[str, Tensor]:
    """The image tokens of `pictures()` by digest."""
    return ImageFeatures(model).of(pictures())


def random_adapter(
    model: Moondream, *, seed: int = 0, scale: float = 0.1, rank: int = RANK
) -> Adapter:
    """An adapter whose factors all matter, in the dtype of the model."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (scale * torch.randn(shape, generator=generator)).to(model.text.wte.dtype)
        for name, shape in adapter_shapes(model.config.text, rank).items()
    }
    return Adapter(model.config.text, rank, tensors)


def adapter_ref(
    *, step: int = 0, seed: int = 3, weights: FileRef | None = None, finetune_id: str = "F" * 26
) -> AdapterRef:
    return AdapterRef(finetune_id=finetune_id, step=step, rank=RANK, seed=seed, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The traces of one request, and the positions of its prompt."""

    traces: tuple[Trace, ...]
    num_prompt_tokens: int


def sample_answers(
    model: Moondream,
    request: TunableRequest,
    *,
    adapter: Adapter | None = None,
    num_rollouts: int = 4,
    seed: int = 7,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 12,
    max_objects: int = 3,
) -> Sampled:
    """Sample answers to a request about `pictures()`."""
    language = language_of(model)
    skill = SKILLS[Skill(request.skill)]
    digest = None if request.image is None else pictures()[request.image].digest
    row = Row(image=digest, prompt=skill.prompt(request, language))
    prefix = prefill(model, adapter, row, features_of(model))
    settings = Settings(
        temperature=temperature, top_p=top_p, max_tokens=max_tokens, max_objects=max_objects
    )
    asked = DecodeRequest(
        prefix=prefix,
        adapter=adapter,
        new_grammar=lambda: skill.grammar(request, language),
        settings=settings,
        num_rollouts=num_rollouts,
        seed=seed,
    )
    traces = sample(model, asked)
    return Sampled(traces=traces, num_prompt_tokens=prefix.length)


def sample_rollouts(
    model: Moondream, request: TunableRequest, *, policy_step: int = 0, **sampling: Any
) -> list[Rollout]:
    """Rollouts as they go out; `sampling` as in `sample_answers`."""
    language = language_of(model)
    return [
        make_rollout(request, trace, policy_step=policy_step, language=language)
        for trace in sample_answers(model, request, **sampling).traces
    ]


def returned(rollout: Rollout, **changed: Any) -> ReturnedRollout:
    """A rollout as the client sends it back, with some fields changed."""
    return ReturnedRollout(**{**vars(rollout), **changed})


def rl_group(
    request: TunableRequest, rollouts: list[Rollout], rewards: list[float], **changed: Any
) -> RLGroup:
    return RLGroup(
        request=request,
        rollouts=tuple(returned(rollout, **changed) for rollout in rollouts),
        rewards=tuple(rewards),
    )


def train_command(groups: list[Group], *, lr: float = 1e-3, **options: Any) -> TrainStep:
    return TrainStep(
        adapter=adapter_ref(),
        optimizer=None,
        groups=tuple(groups),
        lr=lr,
        options=TrainOptions(**options),
        weights_path="/nonexistent/weights",
        optimizer_path="/nonexistent/optimizer",
    )


def loaded_micro(family: str = "moondream3", dtype: torch.dtype = torch.float32) -> LoadedModel:
    """What the worker loads, without a file."""
    model = micro_model(family, dtype)
    return LoadedModel(
        model=model,
        language=language_of(model),
        info=ModelInfo(
            name="micro", family=family, digest="0" * 64, device="cpu",
            dtype=str(dtype).removeprefix("torch."), num_parameters=model.num_parameters(),
            max_context=128, skills=tuple(Skill), tunable_skills=("query", "point", "detect"),
            adapter_bytes_per_rank=adapter_bytes_per_rank(model.config.text),
        ),
    )  # fmt: skip
