"""The verbs of the Engine protocol on one device: each reads top to bottom like a recipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from contract.engine import (
    AdapterRef,
    Answer,
    Answered,
    ExportCheckpoint,
    ExportedFile,
    MakeRollouts,
    ModelInfo,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.errors import RequestRefused
from contract.groups import RLGroup
from contract.skills import Pixels, QueryRequest, Settings, Skill, SkillRequest
from trainer.adapters.bank import AdapterBank
from trainer.adapters.lora import Adapter
from trainer.batching import Row
from trainer.decoder import DecodeRequest
from trainer.exchange.agreement import Prober
from trainer.exchange.errors import ExchangeError
from trainer.exchange.outgoing import Export, write_exchange
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.metrics import reward_metrics, step_extras
from trainer.model.published_config import MoondreamConfig
from trainer.prefill import Prefix, PrefixStore, prefill
from trainer.rollouts import is_reasoning, make_rollout
from trainer.sampling import sample
from trainer.sequence import Trace
from trainer.skills import SKILLS
from trainer.skills.base import to_wire
from trainer.storage import write_all
from trainer.train_step import compute_step, plan_step

LEAST_ROOM = 4
"""Positions that must be left for an answer: one box and its end."""

DEFAULT_MICRO_BATCH_TOKENS = 8192


class TrainerEngine:
    """One loaded model and the adapters of many finetunes on it."""

    def __init__(
        self, loaded: LoadedModel, *, micro_batch_tokens: int = DEFAULT_MICRO_BATCH_TOKENS
    ):
        self._loaded = loaded
        self._info = loaded.info
        self._model = loaded.model
        self._config = cast("MoondreamConfig", loaded.model.config)
        self._language = loaded.language
        self._features = ImageFeatures(loaded.model)
        self._prefixes = PrefixStore()
        self._prober = Prober(loaded.model, loaded.language)
        self._bank = AdapterBank(self._config.text, loaded.model.text.wte.device)
        self._micro_batch_tokens = micro_batch_tokens

    def describe(self) -> ModelInfo:
        return self._info

    def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        """Sample the rollouts of one call from one version of the weights, and score them.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        request = command.request
        prefix = self._prefix(command.adapter, request, images, loc=("request",))
        traces = self._sample(
            command.adapter,
            request,
            command.settings,
            prefix,
            num_rollouts=command.num_rollouts,
            seed=command.seed,
        )
        rollouts = tuple(
            make_rollout(
                command.request,
                trace,
                policy_step=command.adapter.step,
                language=self._language,
            )
            for trace in traces
        )
        rewards = None
        if command.ground_truth is not None:
            skill = SKILLS[Skill(command.request.skill)]
            rewards = tuple(skill.reward(r.output, command.ground_truth) for r in rollouts)
        return RolloutsMade(rollouts=rollouts, rewards=rewards)

    def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        """Validate everything, compute one gradient, update once, write the new state.

        Raises:
            RequestRefused: One of the groups cannot be trained on; nothing is changed.
            StorageFull: The new state could not be written; nothing is changed.
        """
        started = time.perf_counter()
        plan = plan_step(command, images, self._config, self._language)
        adapter = self._bank.adapter(command.adapter)
        optimizer = self._bank.optimizer(command.adapter, command.optimizer)
        features = self._features.of(images)
        computed = compute_step(
            self._model,
            adapter,
            optimizer,
            plan,
            features,
            command,
            max_tokens=self._micro_batch_tokens,
        )
        weights_file = optimizer_file = None
        if computed.tensors is not None and computed.optimizer is not None:
            facts = {"finetune_id": command.adapter.finetune_id, "rank": str(adapter.rank)}
            weights_file, optimizer_file = write_all(
                {
                    Path(command.weights_path): computed.tensors,
                    Path(command.optimizer_path): computed.optimizer.to_tensors(),
                },
                facts,
            )
            updated = Adapter(self._config.text, adapter.rank, computed.tensors)
            self._bank.keep(
                command.adapter.finetune_id,
                weights_file,
                updated,
                optimizer_file,
                computed.optimizer,
            )
        reward_mean, reward_std = reward_metrics(
            [group for group in command.groups if isinstance(group, RLGroup)]
        )
        return StepTrained(
            applied=weights_file is not None,
            skip_reason=computed.skip_reason,
            kl=computed.kl,
            router_kl=computed.router_kl,
            grad_norm=computed.grad_norm,
            reward_mean=reward_mean,
            reward_std=reward_std,
            sft_loss=computed.sft_loss,
            extra=step_extras(
                command, plan, computed.tally, len(features), time.perf_counter() - started
            ),
            weights=weights_file,
            optimizer=optimizer_file,
        )

    def answer(self, command: Answer, images: Sequence[Pixels]) -> Answered:
        """Answer one inference request.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        request = command.request
        started = time.perf_counter()
        prefix = self._prefix(command.adapter, request, images, loc=())
        if prefix.last_hidden_D.is_cuda:
            torch.cuda.synchronize(prefix.last_hidden_D.device)  # or only launches were timed
        prefilled = time.perf_counter()
        (trace,) = self._sample(
            command.adapter, request, command.settings, prefix, num_rollouts=1, seed=command.seed
        )
        prefill_ms = 1e3 * (prefilled - started)
        wire = to_wire(trace.actions, is_reasoning=is_reasoning(request), language=self._language)
        return Answered(
            output=SKILLS[Skill(request.skill)].output(request, wire, self._language),
            finish_reason=trace.finish_reason,
            input_tokens=prefix.length,
            output_tokens=len(trace.actions),
            prefill_time_ms=prefill_ms,
            decode_time_ms=1e3 * (time.perf_counter() - prefilled),
            ttft_ms=prefill_ms,
        )

    def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        """Write the exchange file of an adapter, and measure that it computes the same.

        Raises:
            RequestRefused: It does not; nothing is left.
            StorageFull: There is no space; nothing is left.
        """
        adapter = self._bank.adapter(command.adapter)
        try:
            export = Export.of(self._loaded, command.adapter, adapter, self._prober)
            return write_exchange(export, Path(command.path))
        except ExchangeError as error:
            raise RequestRefused(str(error)) from error

    def drop(self, finetune_id: str) -> None:
        """Forget what memory holds of a finetune."""
        self._bank.drop(finetune_id)

    def release_memory(self) -> None:
        """Give up what can be computed again, after the device ran out of memory."""
        self._prefixes.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _prefix(
        self,
        ref: AdapterRef | None,
        request: SkillRequest,
        images: Sequence[Pixels],
        *,
        loc: tuple[str, ...],
    ) -> Prefix:
        """The prompt of a request after its prefill, from memory or computed now.

        Args:
            loc: Where the fields of the request stand in the caller's body.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        prompt = tuple(SKILLS[Skill(request.skill)].prompt(request, self._language))
        digest = None if request.image is None else images[request.image].digest
        row = Row(image=digest, prompt=prompt)
        config = self._config
        room = config.text.max_context - row.num_positions(config.vision.num_image_tokens)
        if room < LEAST_ROOM:
            raise RequestRefused(
                f"The prompt leaves {room} of {config.text.max_context} positions for an answer; "
                "shorten the question.",
                loc=(*loc, "object" if hasattr(request, "object") else "question"),
            )
        key = (_version(ref), digest, prompt)
        prefix = self._prefixes.get(key)
        if prefix is None:
            adapter = None if ref is None else self._bank.adapter(ref)
            prefix = prefill(self._model, adapter, row, self._features.of(images))
            self._prefixes.put(key, prefix)
        return prefix

    def _sample(
        self,
        ref: AdapterRef | None,
        request: SkillRequest,
        settings: Settings,
        prefix: Prefix,
        *,
        num_rollouts: int,
        seed: int,
    ) -> tuple[Trace, ...]:
        skill = SKILLS[Skill(request.skill)]
        return sample(
            self._model,
            DecodeRequest(
                prefix=prefix,
                adapter=None if ref is None else self._bank.adapter(ref),
                new_grammar=lambda: skill.grammar(request, self._language),
                settings=settings,
                num_rollouts=num_rollouts,
                seed=seed,
            ),
        )


def _version(ref: AdapterRef | None) -> tuple[object, ...]:
    """What tells the weights of one version from all others."""
    if ref is None:
        return ("base",)
    if ref.weights is None:
        return ("fresh", ref.rank, ref.seed)
    return ("weights", ref.weights.digest)


def warm_up(engine: TrainerEngine) -> None:
    """Answer one question so that the first caller does not wait for lazy set-up."""
    engine.answer(
        Answer(
            adapter=None,
            request=QueryRequest(question="?"),
            settings=Settings(temperature=0.0, max_tokens=1),
            seed=0,
        ),
        [],
    )
