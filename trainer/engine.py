"""The verbs of the Engine protocol on one device: each reads top to bottom like a recipe.

    future = engine.begin(verb, command, images)     any number at once
    engine.turn()                                    one unit of work, for whoever's turn it is

The verbs themselves are methods, which begin and work until they have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from contract import faults
from contract.engine import (
    Answer,
    AnswerDelta,
    Answered,
    ExportCheckpoint,
    ExportedFile,
    MakeRollouts,
    ModelInfo,
    RolloutsMade,
    StepTrained,
    TrainStep,
)
from contract.errors import EngineFailed, RequestRefused
from contract.groups import RLGroup
from contract.skills import Pixels, Skill, SkillRequest
from contract.stats import EngineStats
from contract.work import WorkClass
from trainer.adapters.bank import AdapterBank
from trainer.adapters.lora import Adapter
from trainer.budgets import Budgets
from trainer.counters import Counters
from trainer.decoder import Decoder
from trainer.device_memory import PeakMemory
from trainer.exchange.agreement import Prober
from trainer.exchange.errors import ExchangeError
from trainer.exchange.outgoing import Export, write_exchange
from trainer.image_features import ImageFeatures
from trainer.loading import LoadedModel
from trainer.logs import EventLog
from trainer.loop import DeviceLoop, Part
from trainer.metrics import reward_metrics, step_extras
from trainer.model.kv_blocks import BlockPool
from trainer.model.published_config import MoondreamConfig
from trainer.rollouts import is_reasoning, make_rollout
from trainer.sample_job import Sampled, SampleRequest
from trainer.sampler import Sampler
from trainer.shares import DEFAULT_TRAIN_SHARE, Shares
from trainer.skills import SKILLS
from trainer.skills.base import to_wire
from trainer.step_plan import plan_step
from trainer.storage import write_all
from trainer.streaming import AnswerStream
from trainer.train_step import Limits, PackOutOfMemoryError, step_in_parts

R = TypeVar("R")

log = EventLog(__name__)

DEFAULT_MICRO_BATCH_TOKENS = 2048
"""Positions of one part of a train step: what answers wait for at most, between two tokens."""

Tell = Callable[[AnswerDelta], None]


class TrainerEngine:
    """One loaded model and the adapters of many finetunes on it."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        micro_batch_tokens: int = DEFAULT_MICRO_BATCH_TOKENS,
        train_share: float = DEFAULT_TRAIN_SHARE,
        budgets: Budgets | None = None,
    ):
        """Take a loaded model.

        Args:
            train_share: Part of the device's time for train steps while answers are waiting, too.
            budgets: Of memory; absent: divided by what is free.
        """
        self._loaded = loaded
        self._info = loaded.info
        self._model = loaded.model
        self._config = cast("MoondreamConfig", loaded.model.config)
        self._language = loaded.language
        wte = loaded.model.text.wte
        budgets = budgets or Budgets.of(self._config, wte.device, wte.dtype)
        self._limits = Limits(max_positions=micro_batch_tokens, kept_bytes=budgets.train_bytes)
        self._counters = Counters()
        self._features = ImageFeatures(
            loaded.model,
            device_bytes=budgets.feature_bytes,
            host_bytes=budgets.host_feature_bytes,
            counters=self._counters,
        )
        self._bank = AdapterBank(
            self._config.text,
            wte.device,
            dtype=wte.dtype,
            num_slots=budgets.num_slots,
            host_bytes=budgets.host_adapter_bytes,
            counters=self._counters,
        )
        pool = BlockPool(self._config.text, budgets.num_blocks, device=wte.device, dtype=wte.dtype)
        decoder = Decoder(
            loaded.model, pool, max_rows=budgets.max_rows, row_buckets=budgets.row_buckets
        )
        self._sampler = Sampler(
            loaded.model,
            loaded.language,
            bank=self._bank,
            features=self._features,
            decoder=decoder,
            prefix_bytes=budgets.prefix_bytes,
            max_prefill_positions=budgets.max_prefill_positions,
            counters=self._counters,
        )
        self._loop = DeviceLoop(
            self._sampler, Shares(train_share=train_share), self._counters, wte.device
        )
        self._prober = Prober(loaded.model, loaded.language)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")

    def describe(self) -> ModelInfo:
        return self._info

    def stats(self) -> EngineStats:
        """What was counted so far."""
        self._sampler.report()
        return self._counters.gathered()

    # --- many calls at once

    def begin(
        self, verb: str, command: Any, images: Sequence[Pixels], tell: Tell | None = None
    ) -> Future[Any]:
        """Begin a verb; its outcome, also what it is refused for, comes with some later turn.

        Args:
            verb: A name of `contract.messages.COMMANDS`.
            tell: Hears what a streamed answer gains.
        """
        try:
            match verb:
                case "make_rollouts":
                    return self._begin_rollouts(command, images)
                case "train_step":
                    return self._begin_step(command, images)
                case "answer":
                    return self._begin_answer(command, images, tell)
                case "export_checkpoint":
                    return _done(self.export_checkpoint(command))
                case "drop":
                    return _done(self.drop(command))
                case _:
                    raise EngineFailed(f"the worker does not know the verb {verb}")
        except torch.AcceleratorError:
            raise  # the device is lost
        except Exception as error:
            return _failed(error)

    def cancel(self, outcome: Future[Any]) -> None:
        """Give up an answer or rollouts that nobody waits for; train steps go on."""
        self._loop.cancel(outcome)

    def turn(self) -> bool:
        """Do one unit of work; whether there was any."""
        return self._loop.turn()

    # --- the verbs

    def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        """Sample the rollouts of one call from one version of the weights, and score them.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        return self._loop.run(self._begin_rollouts(command, images))

    def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        """Validate everything, compute one gradient, update once, write the new state.

        Raises:
            RequestRefused: One of the groups cannot be trained on; nothing is changed.
            StorageFull: The new state could not be written; nothing is changed.
        """
        return self._loop.run(self._begin_step(command, images))

    def answer(
        self, command: Answer, images: Sequence[Pixels], tell: Tell | None = None
    ) -> Answered:
        """Answer one inference request.

        Raises:
            RequestRefused: The prompt leaves no room for an answer.
        """
        return self._loop.run(self._begin_answer(command, images, tell))

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
        self._sampler.give_up_memory()

    def _begin_rollouts(
        self, command: MakeRollouts, images: Sequence[Pixels]
    ) -> Future[RolloutsMade]:
        wanted = SampleRequest(
            work_class=WorkClass.ROLLOUTS,
            adapter=command.adapter,
            request=command.request,
            images=images,
            settings=command.settings,
            num_rollouts=command.num_rollouts,
            seed=command.seed,
            loc=("request",),
        )
        return self._loop.sample(wanted, lambda sampled: self._rollouts_of(command, sampled))

    def _rollouts_of(self, command: MakeRollouts, sampled: Sampled) -> RolloutsMade:
        rollouts = tuple(
            make_rollout(
                command.request,
                trace,
                policy_step=command.adapter.step,
                language=self._language,
            )
            for trace in sampled.traces
        )
        rewards = None
        if command.ground_truth is not None:
            skill = SKILLS[Skill(command.request.skill)]
            rewards = tuple(skill.reward(r.output, command.ground_truth) for r in rollouts)
        return RolloutsMade(
            rollouts=rollouts,
            rewards=rewards,
            input_tokens=sampled.num_prompt_positions,
            output_tokens=sum(len(trace.actions) for trace in sampled.traces),
        )

    def _begin_answer(
        self, command: Answer, images: Sequence[Pixels], tell: Tell | None
    ) -> Future[Answered]:
        request = command.request
        stream = None
        if command.is_streamed and tell is not None:
            stream = AnswerStream(request, self._language, tell)
        wanted = SampleRequest(
            work_class=command.work_class,
            adapter=command.adapter,
            request=request,
            images=images,
            settings=command.settings,
            num_rollouts=1,
            seed=command.seed,
            on_growth=None if stream is None else stream.grow,
        )
        return self._loop.sample(wanted, lambda sampled: self._answer_of(request, sampled))

    def _answer_of(self, request: SkillRequest, sampled: Sampled) -> Answered:
        (trace,) = sampled.traces
        wire = to_wire(trace.actions, is_reasoning=is_reasoning(request), language=self._language)
        return Answered(
            output=SKILLS[Skill(request.skill)].output(request, wire, self._language),
            finish_reason=trace.finish_reason,
            input_tokens=sampled.num_prompt_positions,
            output_tokens=len(trace.actions),
            prefill_time_ms=1e3 * sampled.prefill_seconds,
            decode_time_ms=1e3 * sampled.decode_seconds,
            ttft_ms=1e3 * sampled.first_token_seconds,
        )

    def _begin_step(self, command: TrainStep, images: Sequence[Pixels]) -> Future[StepTrained]:
        limits, has_failed_elsewhere = self._limits, False

        def begin_again(error: BaseException) -> Generator[Part, None, StepTrained] | None:
            """In smaller packs as often as a pack was too large, and once for all else."""
            nonlocal limits, has_failed_elsewhere
            if not isinstance(error, PackOutOfMemoryError):
                if has_failed_elsewhere:
                    return None
                has_failed_elsewhere = True
            limits = limits.smaller()
            log.warning(
                "train_step_out_of_memory",
                exc_info=error,
                finetune_id=command.adapter.finetune_id,
                step=command.adapter.step + 1,
                max_positions=limits.max_positions,
            )
            return self._train_in_parts(command, images, limits)

        return self._loop.train(lambda: self._train_in_parts(command, images, limits), begin_again)

    def _train_in_parts(
        self, command: TrainStep, images: Sequence[Pixels], limits: Limits
    ) -> Generator[Part, None, StepTrained]:
        """A train step; yields where others may have the device."""
        faults.point("train.begin")
        started = time.perf_counter()
        memory = PeakMemory(self._model.text.wte.device)
        plan = plan_step(command, images, self._config, self._language)
        faults.point("train.plan")
        yield None
        features: dict[str, Tensor] = {}
        for image in images:
            self._features.prepare(image)
        try:
            for image in images:
                features |= self._features.of([image])
                yield None
        finally:  # where one cannot be encoded, the others are not asked for
            for image in images:
                self._features.forget(image)
        adapter = self._bank.adapter(command.adapter)
        computed = yield from step_in_parts(
            self._model,
            adapter,
            self._bank.optimizer(command.adapter, command.optimizer),
            plan,
            features,
            command,
            limits=limits,
        )
        faults.point("train.state")
        weights_file = optimizer_file = None
        if computed.tensors is not None and computed.optimizer is not None:
            facts = {"finetune_id": command.adapter.finetune_id, "rank": str(adapter.rank)}
            state = {
                Path(command.weights_path): computed.tensors,
                Path(command.optimizer_path): computed.optimizer.to_tensors(),
            }
            writing = self._writer.submit(write_all, state, facts)
            yield writing
            weights_file, optimizer_file = writing.result()
            faults.point("train.written")
            self._bank.keep(
                command.adapter.finetune_id,
                weights_file,
                Adapter(self._config.text, adapter.rank, computed.tensors),
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
                command,
                plan,
                computed.tally,
                num_images=len(features),
                seconds=time.perf_counter() - started,
                peak_memory_bytes=memory.num_bytes(),
            ),
            weights=weights_file,
            optimizer=optimizer_file,
            non_finite=computed.non_finite,
        )


def _done(result: R) -> Future[R]:
    future: Future[R] = Future()
    future.set_result(result)
    return future


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
