"""All SQL of the tables batches and batch_files."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from contract.engine import FileRef
from server.db.models import Batch, BatchFile, BatchFileKind, BatchState

OPEN = (BatchState.CHUNKING, BatchState.PROCESSING)
ENDED = (BatchState.COMPLETED, BatchState.FAILED)


def find(session: Session, account_id: str, batch_id: str) -> Batch | None:
    """Return a batch of the account, in whatever state."""
    return session.scalar(select(Batch).where(Batch.id == batch_id, Batch.account_id == account_id))


def find_by_id(session: Session, batch_id: str) -> Batch | None:
    """Return a batch of whatever account."""
    return session.scalar(select(Batch).where(Batch.id == batch_id))


def list_newest(
    session: Session, account_id: str, *, before_ordinal: int, ended_after_ms: int, limit: int
) -> list[Batch]:
    """Return batches of the account that are worked on or ended after a moment, newest first."""
    return list(
        session.scalars(
            select(Batch)
            .where(
                Batch.account_id == account_id,
                Batch.ordinal < before_ordinal,
                Batch.state.in_(OPEN)
                | (Batch.state.in_(ENDED) & (Batch.ended_at_ms > ended_after_ms)),
            )
            .order_by(Batch.ordinal.desc())
            .limit(limit)
        )
    )


def list_open(session: Session) -> list[Batch]:
    """Return the batches that are to be worked on, of all accounts, oldest first."""
    return list(session.scalars(select(Batch).where(Batch.state.in_(OPEN)).order_by(Batch.ordinal)))


def list_over(session: Session, *, begun_before_ms: int, ended_before_ms: int) -> list[Batch]:
    """Return uploads that began, and batches that ended, so long ago that they go."""
    return list(
        session.scalars(
            select(Batch).where(
                (Batch.state == BatchState.UPLOADING) & (Batch.created_at_ms <= begun_before_ms)
                | (Batch.state.in_(ENDED) & (Batch.ended_at_ms <= ended_before_ms))
            )
        )
    )


def list_removed(session: Session, *, begun_before_ms: int) -> list[str]:
    """Return the batches whose rows may go after their files."""
    return list(
        session.scalars(
            select(Batch.id).where(
                Batch.state == BatchState.REMOVED, Batch.created_at_ms <= begun_before_ms
            )
        )
    )


def list_all_ids(session: Session) -> set[str]:
    """Return the ids of every account's batches, removed ones included."""
    return set(session.scalars(select(Batch.id)))


def files_of(session: Session, batch_id: str, kind: BatchFileKind) -> Sequence[BatchFile]:
    """Return the files of a kind, by number."""
    return session.scalars(
        select(BatchFile)
        .where(BatchFile.batch_id == batch_id, BatchFile.kind == kind)
        .order_by(BatchFile.number)
    ).all()


def paths_of(session: Session, batch_id: str) -> set[str]:
    """Return the paths of all files of a batch that count."""
    return set(session.scalars(select(BatchFile.path).where(BatchFile.batch_id == batch_id)))


def list_all_files(session: Session) -> list[BatchFile]:
    """Return the files of all batches that count."""
    return list(session.scalars(select(BatchFile).order_by(BatchFile.path)))


def total_bytes(session: Session, batch_id: str, *, but_number: int) -> int:
    """Return the size of all parts of an upload, one left out."""
    total = session.scalar(
        select(func.sum(BatchFile.num_bytes)).where(
            BatchFile.batch_id == batch_id,
            BatchFile.kind == BatchFileKind.PART,
            BatchFile.number != but_number,
        )
    )
    return int(total or 0)


def put_file(
    session: Session, batch_id: str, kind: BatchFileKind, number: int, file: FileRef
) -> bool:
    """Have a file count, in the place of one with the same number; whether there was one."""
    was_there = session.get(BatchFile, (batch_id, kind.value, number)) is not None
    session.merge(
        BatchFile(
            batch_id=batch_id,
            kind=kind,
            number=number,
            path=file.path,
            digest=file.digest,
            num_bytes=file.num_bytes,
        )
    )
    return was_there


def drop_files(session: Session, batch_id: str, *kinds: BatchFileKind) -> None:
    """Have the files of these kinds count no more."""
    session.execute(
        delete(BatchFile).where(BatchFile.batch_id == batch_id, BatchFile.kind.in_(kinds))
    )


def remove(session: Session, batch: Batch) -> None:
    """Have nothing of a batch count any more; its row stays until its files are gone."""
    drop_files(session, batch.id, *BatchFileKind)
    batch.state = BatchState.REMOVED
    batch.error_code = batch.error_message = None


def forget(session: Session, batch_id: str) -> None:
    """Remove the row of a removed batch."""
    session.execute(delete(Batch).where(Batch.id == batch_id, Batch.state == BatchState.REMOVED))
