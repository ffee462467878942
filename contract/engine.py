"""The Engine protocol: the six verbs that the API asks of a trainer, their inputs and results.

The API decides that a step counts and where its files lie; the trainer computes, writes the files
it was told to write, and says what they hash to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from contract.groups import Group, TrainOptions
from contract.skills import (
    FinishReason,
    GroundTruth,
    Pixels,
    Rollout,
    Settings,
    SkillRequest,
    TunableRequest,
)
from contract.work import WorkClass

RANKS = (8, 16, 24, 32)
"""The ranks that an adapter may have."""


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A durable file: absolute path, SHA-256 in hex, size in bytes."""

    path: str
    digest: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class AdapterRef:
    """Which adapter a command speaks of.

    Attributes:
        finetune_id: Its owner.
        step: The step whose weights these are; stamped on rollouts as `policy_step`.
        rank: 8, 16, 24 or 32.
        seed: Where the fresh adapter of this finetune starts from, 64 bits.
        weights: Its file, or None while no step has changed the fresh adapter.
    """

    finetune_id: str
    step: int
    rank: int
    seed: int
    weights: FileRef | None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is loaded.

    Attributes:
        name: The model's own name, such as `tiny` or `moondream3-preview`.
        family: `moondream2` or `moondream3`.
        digest: SHA-256 (hex) over the checkpoint's configuration and weights.
        device: `cpu`, `cuda:0`.
        dtype: `float32` or `bfloat16`.
        num_parameters: Of the base model.
        max_context: Positions.
        skills: The skills that can be answered.
        tunable_skills: Those that can be trained.
        adapter_bytes_per_rank: Of an adapter's weights in float32, per unit of rank; an optimizer
            state takes twice as much. 0: not known.
    """

    name: str
    family: str
    digest: str
    device: str
    dtype: str
    num_parameters: int
    max_context: int
    skills: tuple[str, ...]
    tunable_skills: tuple[str, ...]
    adapter_bytes_per_rank: int = 0


@dataclass(frozen=True, kw_only=True)
class MakeRollouts:
    """Sample `num_rollouts` answers to one request from one version of the weights.

    `seed` (64 bits) fixes every draw: rollout i at position t depends on (seed, i, t) alone.
    """

    adapter: AdapterRef
    request: TunableRequest
    settings: Settings
    num_rollouts: int
    seed: int
    ground_truth: GroundTruth | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutsMade:
    """The rollouts, and their rewards (0-1) when a ground truth was given.

    Attributes:
        input_tokens: Positions of the prompt with its picture, which all rollouts share.
        output_tokens: Tokens drawn for all rollouts together.
    """

    rollouts: tuple[Rollout, ...]
    rewards: tuple[float, ...] | None
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One gradient over all groups and one update of one adapter.

    Attributes:
        adapter: The state to start from.
        optimizer: Its optimizer file, None when there is none yet.
        groups: At least one.
        lr: Learning rate, 0 to 1.
        options: The algorithm's knobs.
        weights_path: Where the new weights go (absolute; must not exist yet).
        optimizer_path: Where the new optimizer state goes.
    """

    adapter: AdapterRef
    optimizer: FileRef | None
    groups: tuple[Group, ...]
    lr: float
    options: TrainOptions
    weights_path: str
    optimizer_path: str


class SkipReason(StrEnum):
    """Why a step that was answered changed nothing."""

    NO_SIGNAL = "no_signal"
    NON_FINITE = "non_finite"
    ZERO_LR = "zero_lr"


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """Where a step met numbers that are not finite.

    Attributes:
        groups: Indexes of the groups whose loss was one.
        tensors: Some adapter tensors whose gradient, or value after the update, had one.
    """

    groups: tuple[int, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StepTrained:
    """What one step did; the fields of http-api.md 10.5 that the trainer knows.

    `weights` and `optimizer` are None exactly when `applied` is false: the files of the state
    before stay in force. `non_finite` says where, when that was the reason. Everything in `extra`
    (plain JSON values) goes into the response as it is.
    """

    applied: bool
    skip_reason: SkipReason | None
    kl: float | None
    router_kl: float | None
    grad_norm: float | None
    reward_mean: float | None
    reward_std: float | None
    sft_loss: float | None
    extra: dict[str, Any]
    weights: FileRef | None
    optimizer: FileRef | None
    non_finite: NonFinite | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer one request for inference; `adapter` None is the base model.

    With `is_streamed`, what the answer gains is told while it grows. `work_class` is `INFERENCE`,
    or `BATCH` for a line of a batch, which gives way to all other work.
    """

    adapter: AdapterRef | None
    request: SkillRequest
    settings: Settings
    seed: int
    is_streamed: bool = False
    work_class: WorkClass = WorkClass.INFERENCE


@dataclass(frozen=True, kw_only=True)
class AnswerDelta:
    """What a streamed answer gained.

    Attributes:
        text: Of the answer to a query or in a chat, a caption or a path, never a part of a
            character. All texts of an answer joined are that field of its output.
        reasoning: Likewise of the thought, where one was asked for; all of it comes first.
        bbox: Of a segment, once, in front of its path.
    """

    text: str = ""
    reasoning: str = ""
    bbox: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The output as http-api.md 13.2 shows it, such as `{"answer": ...}`, and what it cost."""

    output: dict[str, Any]
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    prefill_time_ms: float
    decode_time_ms: float
    ttft_ms: float


@dataclass(frozen=True, kw_only=True)
class ExportCheckpoint:
    """Write a saved adapter as the exchange file of http-api.md 12.6.

    `path` is absolute and must not exist yet.
    """

    adapter: AdapterRef
    path: str


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file that left, and its manifest (plain JSON values): of what, and how well it agrees."""

    file: FileRef
    manifest: dict[str, Any]


class Engine(Protocol):
    """The six verbs. The trainer's own engine has the same names and arguments, without `async`.

    Every verb may raise the errors of `contract.errors`. `images` are those that requests name by
    index.
    """

    async def describe(self) -> ModelInfo:
        """Say what is loaded; waits until the model answers."""
        ...

    async def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        """Sample the rollouts of one call."""
        ...

    async def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        """Compute one step; when this returns, its files are durable."""
        ...

    async def answer(
        self,
        command: Answer,
        images: Sequence[Pixels],
        on_delta: Callable[[AnswerDelta], None] | None = None,
    ) -> Answered:
        """Answer one inference request; `on_delta` hears of a streamed one while it grows."""
        ...

    async def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        """Write the exchange file of a saved adapter; when this returns, it is durable."""
        ...

    async def drop(self, finetune_id: str) -> None:
        """Forget what memory holds of a finetune; its files belong to the API."""
        ...
