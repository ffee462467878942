"""Fakes at our own seams: an engine that computes nothing, a decoder that decodes in place."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from contract.engine import (
    Answer,
    AnswerDelta,
    Answered,
    ExportCheckpoint,
    ExportedFile,
    FileRef,
    MakeRollouts,
    ModelInfo,
    RolloutsMade,
    SkipReason,
    StepTrained,
    TrainStep,
)
from contract.errors import WorkerUnavailable
from contract.groups import RLGroup, SFTGroup
from contract.skills import (
    FinishReason,
    Pixels,
    Rollout,
    Skill,
    SkillRequest,
)
from contract.stats import EngineStats
from server.domain.engine_status import EngineStatus, WorkerDiedError
from server.domain.errors import ImageDecodeError, ImageTooLargeError
from server.images.base64_text import NotBase64Error, TooManyBytesError, parse_base64
from server.images.data_url import as_ascii, payload_of
from server.images.kept import PictureCounts

FAKE_MODEL = ModelInfo(
    name="tiny",
    family="moondream3",
    digest="d" * 64,
    device="cpu",
    dtype="float32",
    num_parameters=1_000_000,
    max_context=2048,
    skills=("query", "point", "detect", "caption", "segment", "chat"),
    tunable_skills=("query", "point", "detect"),
    adapter_bytes_per_rank=10_000,
)


class FakeEngine:
    """Deterministic in its commands: equal commands give equal results.

    Attributes:
        model: What it says is loaded.
        state: What `status` says; calls wait while it is not `ready`.
        calls: Every (verb, command) that was handed over, in order.
        faults: What the next calls meet, one each: an error is raised, but `WorkerUnavailable` is
            the worker's death, which fails every call that it has.
        is_poison: Says of a command whether a worker dies of it, at once.
        gate: While cleared, calls wait after they were handed over.
        after_delta: What a streamed answer waits for after it told so many deltas.
        num_told: How many deltas all answers told.
        epoch: The number of the present worker; another takes over as soon as one died.
        counted: What `stats` says while it is ready.
        cancelled: The commands whose callers did not wait for the end.
    """

    def __init__(self, model: ModelInfo = FAKE_MODEL):
        self.model = model
        self.state: Literal["starting", "ready", "unavailable"] = "ready"
        self.calls: list[tuple[str, Any]] = []
        self.faults: deque[Exception | None] = deque()
        self.is_poison: Callable[[Any], bool] = lambda _command: False
        self.step_overrides: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.num_told = 0
        self.after_delta: Callable[[int], Awaitable[None]] = _nothing
        self.epoch = 1
        self.counted = EngineStats()
        self.cancelled: list[Any] = []
        self._in_hand: list[asyncio.Future[Any]] = []
        self.dropped: list[str] = []
        self.num_running = 0
        self.max_running = 0
        self.is_started = False

    def verbs(self) -> list[str]:
        """The verbs of all calls so far."""
        return [verb for verb, _ in self.calls]

    def commands(self, verb: str) -> list[Any]:
        """The commands of one verb."""
        return [command for called, command in self.calls if called == verb]

    async def start(self) -> None:
        self.is_started = True

    async def stop(self, *, at_once: bool = False) -> None:
        self.is_started = False

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,
            detail="" if self.state == "ready" else "Told to be so.",
            model=self.model if self.state == "ready" else None,
            num_starts=self.epoch,
            epoch=self.epoch,
        )

    def stats(self) -> EngineStats:
        return self.counted if self.state == "ready" else EngineStats()

    async def describe(self) -> ModelInfo:
        if self.state != "ready":
            raise WorkerUnavailable("Told to be so.")
        return self.model

    async def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        await self._call("make_rollouts", command)
        draw = random.Random(command.seed)
        rollouts = tuple(
            _rollout(command.request, command.adapter.step, draw)
            for _ in range(command.num_rollouts)
        )
        rewards = None
        if command.ground_truth is not None:
            rewards = tuple(draw.random() for _ in rollouts)
        return RolloutsMade(
            rollouts=rollouts,
            rewards=rewards,
            input_tokens=740,
            output_tokens=sum(len(rollout.answer_tokens) for rollout in rollouts),
        )

    async def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        await self._call("train_step", command)
        has_rl = any(isinstance(group, RLGroup) for group in command.groups)
        has_sft = any(isinstance(group, SFTGroup) for group in command.groups)
        applied = command.lr > 0
        rewards = [r for g in command.groups if isinstance(g, RLGroup) for r in g.rewards]
        facts: dict[str, Any] = {
            "applied": applied,
            "skip_reason": None if applied else SkipReason.ZERO_LR,
            "kl": 0.01 if has_rl else None,
            "router_kl": 0.002,
            "grad_norm": 1.5,
            "reward_mean": sum(rewards) / len(rewards) if rewards else None,
            "reward_std": 0.1 if has_rl else None,
            "sft_loss": 2.0 if has_sft else None,
            "extra": {
                "num_tokens": 12,
                "policy_lag": None,
                "reward_by_skill": {"query": 0.75},
                "warnings": ["something"],
            },
            **self.step_overrides,
        }
        weights = optimizer = None
        if facts["applied"]:
            before = command.adapter.weights
            seed = before.digest if before else str(command.adapter.seed)
            weights = _write(command.weights_path, f"weights after {seed}")
            optimizer = _write(command.optimizer_path, f"optimizer after {seed}")
        return StepTrained(**facts, weights=weights, optimizer=optimizer)

    async def answer(
        self,
        command: Answer,
        images: Sequence[Pixels],
        on_delta: Callable[[AnswerDelta], None] | None = None,
    ) -> Answered:
        await self._call("answer", command)
        adapter = command.adapter
        if adapter is not None and adapter.weights is not None:
            _require_file(adapter.weights)
        output = _output(command.request, random.Random(command.seed))
        if command.is_streamed and on_delta is not None:
            for number, delta in enumerate(_deltas(output), 1):
                on_delta(delta)
                self.num_told += 1
                await self._in_worker(command, self.after_delta(number))
        return Answered(
            output=output,
            finish_reason=FinishReason.STOP,
            input_tokens=740,
            output_tokens=3,
            prefill_time_ms=1.0,
            decode_time_ms=2.0,
            ttft_ms=1.5,
        )

    async def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        await self._call("export_checkpoint", command)
        if command.adapter.weights is not None:
            _require_file(command.adapter.weights)
        seed = command.adapter.weights.digest if command.adapter.weights else "fresh"
        file = _write(command.path, f"exchange of {seed} at {command.adapter.step}")
        return ExportedFile(file=file, manifest={"kind": "exchange", "step": command.adapter.step})

    async def drop(self, finetune_id: str) -> None:
        self.dropped.append(finetune_id)

    def die(self) -> None:
        """End the worker, and with it every call that it has."""
        self.epoch += 1
        for passing in self._in_hand:
            passing.cancel()

    async def _call(self, verb: str, command: Any) -> None:
        self.calls.append((verb, command))
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        fault = self.faults.popleft() if self.faults else None  # at once: later ones are of others
        try:
            await self._in_worker(command, self._pass(command, fault))
        finally:
            self.num_running -= 1

    async def _pass(self, command: Any, fault: Exception | None) -> None:
        if self.is_poison(command) or isinstance(fault, WorkerUnavailable):
            self.die()
        elif fault is not None:
            raise fault
        await self.gate.wait()

    async def _in_worker(self, command: Any, work: Awaitable[None]) -> None:
        """Wait for what the worker does with a command, which ends with the worker."""
        epoch = self.epoch
        passing = asyncio.ensure_future(work)
        self._in_hand.append(passing)
        try:
            await passing
        except asyncio.CancelledError:
            if self.epoch == epoch:
                self.cancelled.append(command)
                raise
            raise WorkerDiedError("The worker died.", epoch=epoch) from None
        finally:
            passing.cancel()
            self._in_hand.remove(passing)


class FakeImageDecoder:
    """Decodes in place, with the refusals of the real one; counts what it decoded."""

    def __init__(self, *, max_image_bytes: int = 10 << 20, max_image_pixels: int = 50_000_000):
        self.max_image_bytes = max_image_bytes
        self.max_image_pixels = max_image_pixels
        self.num_decoded = 0

    async def measure(self, image_url: str | bytes) -> int:
        return len(self._pixels(image_url).data)

    async def decode(self, image_url: str | bytes) -> Pixels:
        self.num_decoded += 1
        return self._pixels(image_url)

    def _pixels(self, image_url: str | bytes) -> Pixels:
        payload = bytes(payload_of(as_ascii(image_url)))
        try:
            encoded = parse_base64(payload, max_bytes=self.max_image_bytes)
            image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG", "WEBP", "GIF"))
            if image.width * image.height > self.max_image_pixels:
                raise ImageTooLargeError("The image is too large.")
            data = image.convert("RGB").tobytes()
        except TooManyBytesError as error:
            raise ImageTooLargeError(str(error)) from error
        except NotBase64Error as error:
            raise ImageDecodeError(str(error)) from error
        except (OSError, ValueError) as error:
            raise ImageDecodeError("The image is damaged, or no image.") from error
        return Pixels(
            height=image.height,
            width=image.width,
            digest=hashlib.sha256(encoded).hexdigest(),
            data=data,
        )

    def counts(self) -> PictureCounts:
        return PictureCounts(hits=0, misses=self.num_decoded)


async def _nothing(_number: int) -> None:
    pass


def _require_file(ref: FileRef) -> None:
    assert Path(ref.path).is_file(), "the weights to answer with are gone"


def _write(path: str, text: str) -> FileRef:
    target = Path(path)
    assert target.is_absolute(), f"{path} is not absolute"
    assert not target.exists(), f"{path} was used before"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return FileRef(path=path, digest=digest, num_bytes=len(text))


def _output(request: SkillRequest, draw: random.Random) -> dict[str, Any]:
    x, y = round(draw.random() / 2, 4), round(draw.random() / 2, 4)
    if request.skill == "point":
        return {"points": [{"x": x, "y": y}]}
    if request.skill == "detect":
        return {"objects": [{"x_min": x, "y_min": y, "x_max": x + 0.5, "y_max": y + 0.5}]}
    if request.skill == "segment":
        bbox = {"x_min": x, "y_min": y, "x_max": x + 0.5, "y_max": y + 0.5}
        return {"path": "M 0 0.76 L 1 0.25 Z", "bbox": bbox}
    if request.skill == "caption":
        return {"caption": f"A picture, {request.length}."}
    output: dict[str, Any] = {"answer": f"answer {draw.randrange(1000)}"}
    if request.reasoning:
        output["reasoning"] = {"text": "because", "grounding": []}
    return output


def _deltas(output: dict[str, Any]) -> list[AnswerDelta]:
    """The box or the thought, if there is one, then the text word by word."""
    text = next((output[name] for name in ("answer", "caption", "path") if name in output), "")
    words = re.findall(r"\s*\S+", text)
    first = [AnswerDelta(bbox=output["bbox"])] if "bbox" in output else []
    if "reasoning" in output:
        first.append(AnswerDelta(reasoning=output["reasoning"]["text"]))
    return first + [AnswerDelta(text=word) for word in words]


def _rollout(request: SkillRequest, step: int, draw: random.Random) -> Rollout:
    tokens = {"point": (5, 5), "detect": (5, 5, 6)}.get(
        request.skill, tuple(draw.randrange(100) for _ in range(3))
    )
    return Rollout(
        skill=Skill(request.skill),
        finish_reason=FinishReason.STOP,
        output=_output(request, draw),
        answer_tokens=tokens,
        thinking_tokens=(),
        has_answer_separator=False,
        coords=() if request.skill == "query" else (261, 409),
        sizes=((830, 872),) if request.skill == "detect" else (),
        policy_step=step,
        logprobs={"v": 1, "digest": "0" * 16, "answer": [-0.5] * len(tokens)},
    )
