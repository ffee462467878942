"""Training: which train requests are new steps, and when each has its turn."""

from __future__ import annotations

import asyncio

from contract import faults
from contract.work import WorkClass
from server.db.connection import Database
from server.domain.delivery import Delivery, Fate
from server.domain.errors import FinetuneNotFoundError, StepConflictError
from server.services.adapters import Adapters
from server.services.dispatch import Dispatcher
from server.services.handover import Handover
from server.services.keyed import KeyedCalls
from server.services.ledger import Answered, Ledger, TrainAnswer
from server.services.pictures import Pictures
from server.services.rollouts import require_skill
from server.services.step_commit import stored_answer
from server.services.step_work import StepWork
from server.services.train_order import HeldOrder, Identity, TrainOrder

_CLOSE_SECONDS = 1.0


class Training:
    """Train steps; one that was admitted runs to its end, also when its caller has gone."""

    def __init__(
        self,
        *,
        database: Database,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        pictures: Pictures,
        ledger: Ledger,
        keyed: KeyedCalls,
        work: StepWork,
        queue_seconds: float,
    ):
        self._database = database
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._ledger = ledger
        self._keyed = keyed
        self._work = work
        self._queue_seconds = queue_seconds
        self._admitted: set[asyncio.Task[TrainAnswer]] = set()

    async def train_step(self, account_id: str, held: HeldOrder, delivery: Delivery) -> TrainAnswer:
        """Train one step, unless the answer of an earlier one is what the caller lacks.

        Args:
            held: Let go of when another call's step is what answers this one.
            delivery: The connection that will carry the answer.

        Raises:
            IdempotencyKeyReusedError: The explicit key came with another body.
            ServiceError: The step is refused; nothing was changed.
        """
        identity, keyed = held.order.identity(account_id), held.order.keyed
        if keyed is None:
            return await self._answer(identity, held, delivery)

        async def answer_once() -> bytes:
            stored = Delivery()  # with its key, an answer is delivered as soon as it is stored
            answer = await self._answer(identity, held, stored)
            stored.settle(Fate.TAKEN)
            return answer.body

        answer = await self._keyed.once(keyed, answer_once, on_joined=held.let_go)
        return TrainAnswer(body=answer.body, is_replayed=answer.is_replayed)

    async def close(self) -> None:
        """After the engine ended: let admitted steps answer so, and give up those that do not."""
        if self._admitted:
            _, stuck = await asyncio.wait(self._admitted, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        await self._ledger.settled()

    async def _answer(self, identity: Identity, held: HeldOrder, delivery: Delivery) -> TrainAnswer:
        found = await self._ledger.find(identity, expected_step=held.order.expected_step)
        if isinstance(found, Answered):
            body = await self._stored(identity, found)
            self._ledger.replayed(identity, found, delivery)
            return TrainAnswer(body=body, is_replayed=True)
        if found is None:
            order = held.order
            found = self._ledger.begin(identity, lambda: self._admit(identity, order))
            self._admitted.add(found.task)
            found.task.add_done_callback(self._admitted.discard)
        else:
            held.let_go()
        return await found.answer(delivery)

    async def _admit(self, identity: Identity, order: TrainOrder) -> TrainAnswer:
        faults.point("step.admitted")
        lane, account_id = identity.finetune_id, identity.account_id
        try:
            with (
                self._dispatcher.place(
                    WorkClass.TRAINING, lane, account_id=account_id, since=order.received_at
                ) as place,
                self._pictures.of(order.images, WorkClass.TRAINING) as pictures,
            ):
                await self._adapters.require_living(account_id, order.finetune_id)
                await pictures.measure(within=place.seconds_left(self._queue_seconds))
                await place.front(within=self._queue_seconds)
                within = place.seconds_left(self._queue_seconds)
                is_open = self._dispatcher.check_open
                async with pictures.decoded(within=within, check=is_open) as images:
                    await place.turn(within=self._queue_seconds)
                    begin_before = place.waits_since + self._queue_seconds
                    model = await self._handover.loaded_model(before=begin_before)
                    for group in order.groups:
                        require_skill(model.tunable_skills, group.request.skill, model)
                    body = await self._work.do(
                        identity, order, images, model, begin_before=begin_before
                    )
                    return TrainAnswer(body=body)
        except StepConflictError:
            newest = await self._ledger.read_newest(identity)
            if newest is None or newest.step - 1 != order.expected_step:
                raise
            # What memory did not know: the step was made, by this very request.
            return TrainAnswer(body=await self._stored(identity, newest), is_replayed=True)

    async def _stored(self, identity: Identity, answered: Answered) -> bytes:
        """The stored answer, byte for byte; of a deleted finetune there is none any more."""
        try:
            return await self._database.read(
                stored_answer, identity.account_id, identity.finetune_id, answered.step
            )
        except FinetuneNotFoundError:
            self._ledger.forget(identity.account_id, identity.finetune_id)
            raise
