"""An engine that counts what its calls used; everything else it leaves to the one inside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

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
from contract.skills import Pixels
from contract.stats import EngineStats
from server.domain.engine_status import EngineStatus
from server.domain.usage import Usage
from server.services.books import Books
from server.services.dispatch import SupervisedEngine


class MeteredEngine:
    """Counts calls that come to their end for the caller whose work is under way.

    A train step is counted with its commit (services/step_work.py), so that it counts as often as
    it happens.
    """

    def __init__(self, engine: SupervisedEngine, books: Books):
        self._engine = engine
        self._books = books

    async def make_rollouts(self, command: MakeRollouts, images: Sequence[Pixels]) -> RolloutsMade:
        """Sample the rollouts of one call."""
        began = time.monotonic()
        made = await self._engine.make_rollouts(command, images)
        spent = Usage(
            images=len(images),
            prompt_tokens=made.input_tokens,
            generated_tokens=made.output_tokens,
            compute_ms=ms_since(began),
        )
        self._books.used(spent, finetune_id=command.adapter.finetune_id)
        return made

    async def answer(
        self,
        command: Answer,
        images: Sequence[Pixels],
        on_delta: Callable[[AnswerDelta], None] | None = None,
    ) -> Answered:
        """Answer one inference request."""
        began = time.monotonic()
        answered = await self._engine.answer(command, images, on_delta)
        spent = Usage(
            images=len(images),
            prompt_tokens=answered.input_tokens,
            generated_tokens=answered.output_tokens,
            compute_ms=ms_since(began),
        )
        adapter = command.adapter
        self._books.used(spent, finetune_id="" if adapter is None else adapter.finetune_id)
        return answered

    async def export_checkpoint(self, command: ExportCheckpoint) -> ExportedFile:
        """Write the exchange file of a saved adapter."""
        began = time.monotonic()
        exported = await self._engine.export_checkpoint(command)
        spent = Usage(compute_ms=ms_since(began))
        self._books.used(spent, finetune_id=command.adapter.finetune_id)
        return exported

    async def train_step(self, command: TrainStep, images: Sequence[Pixels]) -> StepTrained:
        """Compute one step."""
        return await self._engine.train_step(command, images)

    async def describe(self) -> ModelInfo:
        """Say what is loaded."""
        return await self._engine.describe()

    async def drop(self, finetune_id: str) -> None:
        """Forget what memory holds of a finetune."""
        await self._engine.drop(finetune_id)

    async def start(self) -> None:
        """Begin to start the worker."""
        await self._engine.start()

    async def stop(self, *, at_once: bool = False) -> None:
        """End the worker."""
        await self._engine.stop(at_once=at_once)

    def status(self) -> EngineStatus:
        """Say how the worker is."""
        return self._engine.status()

    def stats(self) -> EngineStats:
        """Say what the present worker has counted."""
        return self._engine.stats()


def ms_since(began: float) -> int:
    """Milliseconds since a moment (monotonic, in seconds)."""
    return round((time.monotonic() - began) * 1000)
