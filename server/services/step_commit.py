"""The transactions of a train step: another worker has it, it counts, its answer is read again."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from contract import faults
from server.db import finetunes, metrics, train_requests, train_steps, usage
from server.db.models import TrainStep
from server.domain.errors import FinetuneNotFoundError, WorkerUnavailableError
from server.domain.usage import HourlyUsage
from server.services.adapters import living_finetune
from server.services.keyed import KeyedCall


@dataclass(kw_only=True)
class LedgerRow:
    """The row of a request in the ledger, and the epoch of the worker that has it now."""

    account_id: str
    finetune_id: str
    seq: int
    epoch: int


def give_to_worker(session: Session, row: LedgerRow, *, epoch: int) -> None:
    """Let another worker have a request.

    Raises:
        ServiceError: It is not ours any more; see `_lost`.
    """
    if not train_requests.claim(session, row.finetune_id, row.seq, epoch=epoch):
        raise _lost(session, row)


def commit_step(
    session: Session,
    row: LedgerRow,
    step: TrainStep,
    *,
    numbers: dict[str, float],
    keyed: KeyedCall | None,
    used: HourlyUsage,
) -> None:
    """Make a step count: its number, files, answer, metrics and what it used, or none of them.

    Raises:
        ServiceError: The request is not ours any more; see `_lost`.
    """
    faults.point("step.commit")
    if _was_committed(session, row, step):
        return  # the database broke off while it said so
    at_ms = step.created_at_ms
    is_ours = train_requests.finish(
        session, row.finetune_id, row.seq, epoch=row.epoch, step=step.step, at_ms=at_ms
    )
    if not is_ours or not finetunes.advance(
        session, row.finetune_id, from_step=step.step - 1, at_ms=at_ms
    ):
        raise _lost(session, row)
    session.merge(step)
    metrics.upsert(session, row.finetune_id, step=step.step, values=numbers, at_ms=at_ms)
    usage.add(session, [used])
    if keyed is not None:
        keyed.store(session, step.response.encode(), row.finetune_id)


def stored_answer(session: Session, account_id: str, finetune_id: str, step: int) -> bytes:
    """The answer of a committed step, byte for byte.

    Raises:
        FinetuneNotFoundError: The finetune was deleted meanwhile.
    """
    finetune = living_finetune(session, account_id, finetune_id)
    row = train_steps.find(session, finetune.id, step)
    assert row is not None, "a request that is done has its step"
    return row.response.encode()


def _was_committed(session: Session, row: LedgerRow, step: TrainStep) -> bool:
    request = train_requests.find(session, row.finetune_id, row.seq)
    return request is not None and (request.step, request.epoch) == (step.step, row.epoch)


def _lost(session: Session, row: LedgerRow) -> FinetuneNotFoundError | WorkerUnavailableError:
    """Why a request is not ours: its finetune is deleted, or another epoch has taken over."""
    try:
        living_finetune(session, row.account_id, row.finetune_id)
    except FinetuneNotFoundError as error:
        return error
    return WorkerUnavailableError(
        "Another process has taken this finetune over; nothing was changed. Ask again."
    )
