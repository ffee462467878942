"""Our weights in TRL's own loss, against our train step: the same loss and the same gradient.

`benchmarks.trl_on_our_weights` hands our text model to TRL. The log-probabilities of the sampler
differ from those of the weights, so that clips cut some actions.

    text      two groups whose prompts differ in length, answers of many lengths; `grpo` and `dapo`
    picture   one group, prefix attention over the picture; `grpo`, `dapo`, and with divergence

Our gradient is read from a step: the first mean of a fresh Adam state is (1 - beta1) of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.local_finetune import returned
from benchmarks.gpu.random_adapter import random_adapter
from benchmarks.rollout_sides import RANK
from benchmarks.served_checkpoint import IMPOSSIBLE
from benchmarks.train_ours import command_of, config_of, noise_picture, our_model
from benchmarks.train_task import FIRST_TOKEN
from benchmarks.trl_on_our_weights import loss_by_trl
from contract.groups import RLGroup, TrainOptions
from contract.skills import FinishReason, Pixels, QueryRequest
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.loading import LoadedModel
from trainer.optim import BETA_1, AdamState
from trainer.packing import pack
from trainer.rollouts import make_rollout
from trainer.scoring import score
from trainer.sequence import Action, Trace
from trainer.skills.query import QuerySkill
from trainer.step_plan import plan_step
from trainer.train_step import Limits, in_one_go, step_in_parts

TOLERANCE = 1e-5
CLIP, BETA = 0.2, 0.05
GAP = 0.3
"""Standard deviation of the sampler's log-probabilities around those of the weights."""

NEVER, NOT_AT_ALL = 1e9, 0.0
LENGTHS = (1, 5, 9, 3, 7, 2, 9, 4)
ONE_PACK = Limits(max_positions=1 << 20)
TINY = {"dim": 64, "ff_dim": 96, "n_layers": 3, "n_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared."""

    loss: Literal["grpo", "dapo"]
    has_picture: bool
    beta: float = 0.0


CASES = (
    Case(loss="grpo", has_picture=False),
    Case(loss="dapo", has_picture=False),
    Case(loss="grpo", has_picture=True),
    Case(loss="dapo", has_picture=True),
    Case(loss="dapo", has_picture=True, beta=BETA),
)


def check() -> dict[str, float]:
    """The worst difference over all cases: of the loss, whose terms are about 1 and cancel, and of
    the gradient of a factor, relative to its length.

    Raises:
        AssertionError: It is more than rounding.
    """
    loaded = tiny_model()
    worst = {"loss": 0.0, "gradient": 0.0}
    for case in CASES:
        found = _differences(loaded, case)
        assert max(found.values()) <= TOLERANCE, f"{case}: differs from TRL by {found}"
        worst = {name: max(worst[name], found[name]) for name in worst}
    return worst


def tiny_model() -> LoadedModel:
    """What our masks suppress, TRL has to find impossible."""
    loaded = our_model(TINY)
    suppressed = QuerySkill().grammar(QueryRequest(question=""), loaded.language).mask().suppressed
    loaded.model.text.lm_head.bias[list(suppressed)] = IMPOSSIBLE
    return loaded


def _differences(loaded: LoadedModel, case: Case) -> dict[str, float]:
    adapter = random_adapter(loaded.model.config.text, RANK, seed=1)
    pictures = [noise_picture()] if case.has_picture else []
    features = _features(loaded, pictures)
    command = command_of(_groups(loaded, adapter, case, pictures, features), _options(case))
    plan = plan_step(command, pictures, config_of(loaded), loaded.language)
    computed = in_one_go(
        step_in_parts(
            loaded.model,
            adapter,
            AdamState.fresh(adapter.tensors),
            plan,
            features,
            command,
            limits=ONE_PACK,
        )
    )
    assert computed.optimizer is not None
    assert computed.tally.num_dropped == 0
    assert computed.tally.num_clipped > 0
    ours = {name: mean / (1 - BETA_1) for name, mean in computed.optimizer.mean.items()}
    loss, theirs = loss_by_trl(
        loaded.model,
        adapter,
        plan.examples,
        features,
        loss_type=case.loss,
        clip=CLIP,
        beta=case.beta,
    )
    assert ours.keys() == theirs.keys()
    return {
        "loss": abs(computed.tally.loss - loss),
        "gradient": max(relative(ours[name], theirs[name]) for name in theirs),
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference over the length of what is wanted."""
    return float((found - wanted).double().norm() / wanted.double().norm())


def _options(case: Case) -> TrainOptions:
    """What TRL has as well; the rest is put out of reach."""
    return TrainOptions(
        loss=case.loss,
        clip_low=CLIP,
        clip_high=CLIP,
        dual_clip=NEVER,
        drop_below=NOT_AT_ALL,
        drop_above=NEVER,
        drop_gap=NEVER,
        beta=case.beta,
        kl_ratio_max=NEVER,
        max_grad_norm=NEVER,
    )


@torch.no_grad()
def _features(loaded: LoadedModel, pictures: Sequence[Pixels]) -> dict[str, Tensor]:
    vision = loaded.model.config.vision
    generator = torch.Generator().manual_seed(4)
    shape = (vision.num_image_tokens, loaded.model.config.text.dim)
    return {picture.digest: torch.randn(shape, generator=generator) for picture in pictures}


def _groups(
    loaded: LoadedModel,
    adapter: Adapter,
    case: Case,
    pictures: Sequence[Pixels],
    features: Mapping[str, Tensor],
) -> list[RLGroup]:
    """Rollouts with rewards and the log-probabilities of a sampler that is some steps old."""
    image = 0 if case.has_picture else None
    requests = [QueryRequest(question="a a a", image=image)]
    if not case.has_picture:
        requests.append(QueryRequest(question="what is there to be seen?"))
    generator = torch.Generator().manual_seed(5)
    vocabulary = loaded.model.config.text.vocab_size
    groups: list[RLGroup] = []
    for request in requests:
        mask = QuerySkill().grammar(request, loaded.language).mask()
        answers = [
            torch.randint(FIRST_TOKEN, vocabulary, (length,), generator=generator).tolist()
            for length in LENGTHS
        ]
        blank = [tuple(Action(token=token, mask=mask) for token in answer) for answer in answers]
        traces = _sampled(loaded, adapter, request, blank, pictures, features, generator)
        rollouts = [
            make_rollout(request, trace, policy_step=0, language=loaded.language)
            for trace in traces
        ]
        rewards = torch.rand(len(rollouts), generator=generator).tolist()
        groups.append(
            RLGroup(
                request=request, rollouts=tuple(map(returned, rollouts)), rewards=tuple(rewards)
            )
        )
    return groups


@torch.no_grad()
def _sampled(
    loaded: LoadedModel,
    adapter: Adapter,
    request: QueryRequest,
    blank: Sequence[tuple[Action, ...]],
    pictures: Sequence[Pixels],
    features: Mapping[str, Tensor],
    generator: torch.Generator,
) -> list[Trace]:
    """The actions with log-probabilities near those of the adapter."""
    image = pictures[0].digest if pictures else None
    prompt = QuerySkill().prompt(request, loaded.language)
    rows = [Row(image=image, prompt=tuple(prompt), actions=actions) for actions in blank]
    scores = score(loaded.model, pack(loaded.model, rows, features), adapter)
    gaps_A = GAP * torch.randn(scores.token_A.shape, generator=generator)
    logprobs = iter((scores.token_A + gaps_A).clamp(max=-1e-3).tolist())
    return [
        Trace(
            actions=tuple(
                dataclasses.replace(action, token_logprob=next(logprobs), bin_logprobs=())
                for action in actions
            ),
            finish_reason=FinishReason.LENGTH,
        )
        for actions in blank
    ]
