"""All SQL of the table train_requests: the ledger.

A row moves forward only (running, done, delivered), each time by a conditional update that says
whether it was still ours to move.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from server.db.models import RequestState, TrainRequest


def record(session: Session, finetune_id: str, *, fingerprint: str, epoch: int, at_ms: int) -> int:
    """Write the row of a request that is about to be worked on; return its `seq`.

    Steps of a finetune run one after another, so a row of it that says `running` now was left by
    one that failed and could not say so.
    """
    session.execute(
        delete(TrainRequest).where(
            TrainRequest.finetune_id == finetune_id, TrainRequest.state == RequestState.RUNNING
        )
    )
    newest = session.scalar(
        select(func.max(TrainRequest.seq)).where(TrainRequest.finetune_id == finetune_id)
    )
    seq = (newest or 0) + 1
    session.add(
        TrainRequest(
            finetune_id=finetune_id,
            seq=seq,
            fingerprint=fingerprint,
            state=RequestState.RUNNING,
            epoch=epoch,
            step=None,
            num_replays=0,
            created_at_ms=at_ms,
        )
    )
    return seq


def claim(session: Session, finetune_id: str, seq: int, *, epoch: int) -> bool:
    """Give a running request to another worker; False if it is not running any more."""
    claimed = session.execute(
        update(TrainRequest)
        .where(*_is_running(finetune_id, seq))
        .values(epoch=epoch)
        .returning(TrainRequest.seq)
    )
    return claimed.first() is not None


def finish(
    session: Session, finetune_id: str, seq: int, *, epoch: int, step: int, at_ms: int
) -> bool:
    """Say which step a request became; False if it is gone, or belongs to another epoch."""
    finished = session.execute(
        update(TrainRequest)
        .where(*_is_running(finetune_id, seq), TrainRequest.epoch == epoch)
        .values(state=RequestState.DONE, step=step, done_at_ms=at_ms)
        .returning(TrainRequest.seq)
    )
    return finished.first() is not None


def find(session: Session, finetune_id: str, seq: int) -> TrainRequest | None:
    """Return one request."""
    return session.get(TrainRequest, (finetune_id, seq))


def find_of_step(session: Session, finetune_id: str, step: int) -> TrainRequest | None:
    """Return the request that became a step; None for steps of older releases."""
    return session.scalar(
        select(TrainRequest).where(
            TrainRequest.finetune_id == finetune_id, TrainRequest.step == step
        )
    )


def mark_delivered(session: Session, finetune_id: str, seq: int, *, at_ms: int) -> None:
    """The caller has the answer."""
    session.execute(
        update(TrainRequest)
        .where(
            TrainRequest.finetune_id == finetune_id,
            TrainRequest.seq == seq,
            TrainRequest.state == RequestState.DONE,
        )
        .values(state=RequestState.DELIVERED, delivered_at_ms=at_ms)
    )


def count_replay(session: Session, finetune_id: str, seq: int) -> None:
    """The stored answer is sent once more."""
    session.execute(
        update(TrainRequest)
        .where(TrainRequest.finetune_id == finetune_id, TrainRequest.seq == seq)
        .values(num_replays=TrainRequest.num_replays + 1)
    )


def drop(session: Session, finetune_id: str, seq: int) -> None:
    """A request that was refused or failed leaves no row."""
    session.execute(delete(TrainRequest).where(*_is_running(finetune_id, seq)))


def drop_running(session: Session) -> int:
    """At start: nobody works on what an earlier process had in hand; return how many."""
    dropped = session.execute(
        delete(TrainRequest)
        .where(TrainRequest.state == RequestState.RUNNING)
        .returning(TrainRequest.seq)
    )
    return len(dropped.all())


def drop_all_of(session: Session, finetune_id: str) -> None:
    """The finetune is deleted."""
    session.execute(delete(TrainRequest).where(TrainRequest.finetune_id == finetune_id))


def _is_running(finetune_id: str, seq: int):
    return (
        TrainRequest.finetune_id == finetune_id,
        TrainRequest.seq == seq,
        TrainRequest.state == RequestState.RUNNING,
    )
