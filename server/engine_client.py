"""The only file that knows how a trainer is reached: a child process that is replaced when it ends.

`EngineClient` is `contract.engine.Engine` for the rest of the service. A call is handed over to the
worker that is ready, and fails with `WorkerDiedError` when that worker ends under it, or with
`NotHandedOverError` where there is none; how long one is waited for, and whether a call is tried
again, is the caller's decision, never made here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import structlog

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
from contract.errors import WorkerUnavailable
from contract.messages import EXIT_REFUSED
from contract.skills import Pixels
from contract.stats import EngineStats
from server.dialogue import Dialogue
from server.domain.engine_status import EngineStatus, NotHandedOverError
from server.restarts import RestartSchedule
from server.silence import SilenceLimits, until_silent
from server.worker_process import WorkerEnd, WorkerLaunch, WorkerProcess

log = structlog.get_logger(__name__)

READ_OUT_SECONDS = 1.0
"""How long reading goes on after the end of the process; a grandchild may hold the socket open."""

EPOCH_PAUSE_SECONDS = 1.0
STOPPING = "The server is stopping."

State = Literal["starting", "ready", "unavailable"]


class WorkerRefusedError(Exception):
    """The first worker says, in a sentence for people, that it cannot work as configured."""


class EngineClient:
    """One worker at a time, from `start` to `stop`.

    Args:
        launch: How to start a worker.
        restarts: When to start it again.
        next_epoch: Gives every worker a number larger than any before.
        on_status: Called at every change of `status()`.
        limits: How long a worker may say nothing.
        stop_seconds: How long a worker that was told to stop, or has hung up, may take to end
            before signals end it. An interpreter with torch takes seconds to tidy up.
    """

    def __init__(
        self,
        launch: WorkerLaunch,
        *,
        restarts: RestartSchedule | None = None,
        next_epoch: Callable[[], int] | None = None,
        on_status: Callable[[EngineStatus], None] | None = None,
        limits: SilenceLimits | None = None,
        stop_seconds: float = 10.0,
    ) -> None:
        self._launch = launch
        self._restarts = restarts or RestartSchedule()
        self._next_epoch = next_epoch or itertools.count(1).__next__
        self._on_status = on_status
        self._limits = limits or SilenceLimits()
        self._canaries: dict[ModelInfo, str] = {}
        self._odd_canary: str | None = None
        self._stop_seconds = stop_seconds
        self._status = EngineStatus(state="starting", detail="The worker is not started yet.")
        self._dialogue: Dialogue | None = None
        self._worker: WorkerProcess | None = None
        self._num_starts = 0
        self._epoch = 0
        self._refusal: str | None = None
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to start workers; returns at once. Call once."""
        assert self._supervision is None, "an engine client is started once"
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self, *, at_once: bool = False) -> None:
        """End the worker in order; calls that run or come fail with `WorkerUnavailable`.

        Args:
            at_once: What it is doing had its time; it is killed.
        """
        if at_once:
            self._stop_seconds = 0.0
        self._stopping.set()
        self._wake()
        if self._supervision is not None:
            await self._supervision

    def status(self) -> EngineStatus:
        """What is known without asking the worker; changes before a call is told of a death."""
        return self._status

    def stats(self) -> EngineStats:
        """What the present worker has counted, as it said last; empty while there is none."""
        return EngineStats() if self._dialogue is None else self._dialogue.stats

    @property
    def refusal(self) -> str | None:
        """Why the worker cannot work as configured, if it said so before any model was loaded."""
        return self._refusal

    @property
    def worker_pid(self) -> int | None:
        """The process id of the present worker, for operators and tests."""
        return None if self._worker is None else self._worker.pid

    async def describe(self) -> ModelInfo:
        """Say what is loaded; waits until the model answers."""
        await self._ready()
        assert self._status.model is not None, "a dialogue is published with its model"
        return self._status.model

    async def wait_until_ready(self) -> ModelInfo:
        """As `describe`, for who can act on a configuration that will never work.

        Raises:
            WorkerRefusedError: The worker ended with `EXIT_REFUSED` before any model was loaded.
        """
        await self._ready(gives_up=True)
        return await self.describe()

    async def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        """Sample the rollouts of one call."""
        return await self._call("make_rollouts", command, images)

    async def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        """Compute one step; when this returns, its files are durable."""
        return await self._call("train_step", command, images)

    async def answer(
        self,
        command: Answer,
        images: Sequence[Pixels],
        on_delta: Callable[[AnswerDelta], None] | None = None,
    ) -> Answered:
        """Answer one inference request; cancelling the wait ends the work.

        `on_delta` hears of a streamed answer while it grows, in order and before the result.
        """
        return await self._call("answer", command, images, on_delta)

    async def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        """Write the exchange file of a saved adapter."""
        return await self._call("export_checkpoint", command, ())

    async def drop(self, finetune_id: str) -> None:
        """Forget what memory holds of a finetune."""
        if self._dialogue is not None:  # who comes later remembers nothing
            await self._call("drop", finetune_id, ())

    async def _call(
        self,
        verb: str,
        command: Any,
        images: Sequence[Pixels],
        on_delta: Callable[[AnswerDelta], None] | None = None,
    ) -> Any:
        if self._stopping.is_set():
            raise WorkerUnavailable(STOPPING)
        if self._dialogue is None:
            raise NotHandedOverError("No worker is ready.")
        return await self._dialogue.call(verb, command, images, on_delta)

    async def _ready(self, *, gives_up: bool = False) -> Dialogue:
        """The conversation with a worker that is ready, as soon as there is one."""
        while True:
            if self._stopping.is_set():
                raise WorkerUnavailable(STOPPING)
            if self._dialogue is not None:
                return self._dialogue
            if gives_up and self._refusal is not None:
                raise WorkerRefusedError(self._refusal)
            await self._changed.wait()

    def _become(self, state: State, detail: str, model: ModelInfo | None = None) -> None:
        """Publish a status and wake who waits for one; the model is the last one that is known."""
        # Until the first model answers, whoever started us shows the status.
        write = log.debug if self._status.model is None else log.info
        write("engine_status", state=state, detail=detail, epoch=self._epoch)
        self._status = EngineStatus(
            state=state,
            detail=detail,
            model=model or self._status.model,
            num_starts=self._num_starts,
            epoch=self._epoch,
        )
        self._wake()
        if self._on_status is not None:
            self._on_status(self._status)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _supervise(self) -> None:
        """One worker after another until we stop."""
        while await self._pause(self._restarts.pause_seconds()):
            epoch = await self._new_epoch()
            if epoch is None:
                break
            self._restarts.started()
            try:
                reason = await self._attend(epoch)
            except Exception as error:  # Whatever it is, calls are waiting for the next attempt.
                log.exception("worker_start_failed")
                reason = f"The worker could not be started: {error}."
            self._restarts.ended()
            if not self._stopping.is_set():
                seconds = self._restarts.pause_seconds()
                self._become("unavailable", f"{reason} It is started again in {seconds:.0f} s.")
        self._become("unavailable", STOPPING)

    async def _new_epoch(self) -> int | None:
        """The number of the next worker, when the database gives it; None when we are to stop."""
        while True:
            try:
                return await asyncio.to_thread(self._next_epoch)
            except Exception as error:  # busy, away, full: no fault of a worker
                log.warning("epoch_not_given", detail=str(error))
                self._become("unavailable", f"The next worker has no number yet: {error}")
            if not await self._pause(EPOCH_PAUSE_SECONDS):
                return None

    async def _pause(self, seconds: float) -> bool:
        """Wait, and say whether to go on."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    async def _attend(self, epoch: int) -> str:
        """Start one worker, be there until it ends, and say in a sentence how it did.

        Raises:
            OSError: It could not be started.
        """
        self._num_starts += 1
        self._epoch = epoch
        self._on_loading("The worker is starting.")
        changed = asyncio.Event()
        worker = self._worker = await WorkerProcess.start(self._launch, epoch=epoch)

        def on_ready(model: ModelInfo, canary: str) -> None:
            if self._is_as_before(model, canary):
                self._on_ready(model, dialogue)
            else:
                changed.set()

        dialogue = Dialogue(
            worker.channel,
            epoch=epoch,
            on_loading=self._on_loading,
            on_ready=on_ready,
            on_over=self._on_over,
        )
        talk = asyncio.create_task(dialogue.run())

        def on_stuck() -> bool:
            if talk.cancel():  # the first time: it computes nothing more, whatever is left of it
                self._on_stuck(worker.pid)
            return not self._stopping.is_set()

        worker.on_stuck = on_stuck
        silent = asyncio.create_task(until_silent(dialogue, self._limits))
        try:
            await self._first_end(talk, worker, silent, changed)
            if changed.is_set():
                end = await worker.end(grace_seconds=0.0, term_seconds=0.0)
            elif silent.done():
                log.error("worker_silent", epoch=epoch, seconds=silent.result())
                self._on_over()
                end = await worker.end(grace_seconds=0.0, term_seconds=0.0)
            elif self._stopping.is_set():
                dialogue.ask_to_stop()
                # While it loads it does not listen, and loses nothing.
                grace = self._stop_seconds if dialogue.was_ready else 0.0
                term = 0.0 if grace == 0.0 else 2.0
                end = await worker.end(grace_seconds=grace, term_seconds=term)
            else:
                self._on_over()
                is_broken = talk.done() and talk.exception() is not None
                end = await worker.end(grace_seconds=0.0 if is_broken else self._stop_seconds)
            # What it said last may still lie in the socket.
            await asyncio.wait({talk}, timeout=READ_OUT_SECONDS)
        finally:
            talk.cancel()
            silent.cancel()
            await asyncio.wait({talk, silent})
            try:
                await worker.end(grace_seconds=0.0, term_seconds=0.0)
            finally:
                worker.channel.close()
                self._worker = None
        if changed.is_set():
            return "The worker was ended: it computes otherwise than the one before."
        if not silent.cancelled():
            return f"The worker was killed: it had said nothing for {silent.result():g} s."
        fault = None if talk.cancelled() else talk.exception()
        return self._reason(end, dialogue.was_ready, fault)

    async def _first_end(
        self,
        talk: asyncio.Task[None],
        worker: WorkerProcess,
        silent: asyncio.Task[float],
        changed: asyncio.Event,
    ) -> None:
        """Wait until the conversation ends, or the process, or it has to, or we are to stop."""
        ends = (worker.wait(), self._stopping.wait(), changed.wait())
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(end) for end in ends}
        try:
            await asyncio.wait({talk, silent, *waits}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _is_as_before(self, model: ModelInfo, canary: str) -> bool:
        """Whether a worker answers like those before it, or like the last one that did not.

        Two that agree against the first are believed: it may have been the first that was wrong.
        """
        known = self._canaries.setdefault(model, canary)
        if canary in (known, self._odd_canary):
            self._canaries[model], self._odd_canary = canary, None
            return True
        log.error("canary_changed", model=model.name, epoch=self._epoch)
        self._odd_canary = canary
        return False

    def _on_loading(self, text: str) -> None:
        self._become("unavailable" if self._status.state == "unavailable" else "starting", text)

    def _on_ready(self, model: ModelInfo, dialogue: Dialogue) -> None:
        if not self._stopping.is_set():
            self._restarts.became_ready()
            self._dialogue = dialogue
            self._become("ready", f"{model.name} on {model.device}", model)

    def _on_over(self) -> None:
        self._dialogue = None
        if self._status.state == "ready" and not self._stopping.is_set():
            self._become("unavailable", "The worker ended.")

    def _on_stuck(self, pid: int) -> None:
        """It cannot be replaced before it has let go of the device."""
        log.error("worker_does_not_end", pid=pid, epoch=self._epoch)
        self._become(
            "unavailable",
            f"The worker (process {pid}) was killed and does not end; the driver of its device may"
            " hang. It is replaced when it has ended; if it never does, restart the machine.",
        )

    def _reason(self, end: WorkerEnd, was_ready: bool, fault: BaseException | None) -> str:
        """Say how a worker ended; remember when it refused to work at all."""
        said = f": {end.last_line.rstrip('.')}." if end.last_line else "."
        if fault is not None:
            log.error("worker_message_malformed", exc_info=fault)
            return f"The worker was ended because it sent what cannot be read ({fault})."
        if was_ready:
            return f"The worker ended with {end.how}{said}"
        if end.status == EXIT_REFUSED and self._status.model is None:
            self._refusal = end.last_line or f"The worker ended with {end.how}."
        return f"The worker ended with {end.how} before it was ready{said}"
